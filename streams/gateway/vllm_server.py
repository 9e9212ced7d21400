"""vLLM as an engine."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from streams.errors import GatewayError, WrongAnswererError
from streams.gateway.upstreams import OpenAIUpstream

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streams.gateway.upstreams import Call


class VllmUpstream(OpenAIUpstream):
    """vLLM: an adapter is asked for as a model, and the answer names the model that gave it."""

    applies_adapters = True
    constraint = "regex"

    async def held(self) -> frozenset[str]:
        """Return what it lists besides its base; that a name is listed proves nothing about its weights."""
        document = await self._get("/v1/models")
        return frozenset(
            str(each.get("id"))
            for each in document.get("data", ())
            if isinstance(each, dict) and each.get("parent") is not None
        )

    def body(self, call: Call, *, stream: bool) -> dict[str, Any]:
        """Return the request's body; prefixes cached for one tenant are found by no other.

        Raises:
            GatewayError: it asks for log-probabilities of its own prompt, which ended vLLM 0.32 on a CPU for everybody
                when another request with an adapter was answered at the same time.
        """
        if call.document.get("echo") and call.document.get("logprobs") is not None:
            raise GatewayError(
                "this engine tells no log-probabilities of a prompt; leave echo or logprobs out",
                param="echo",
                word="unsupported_parameter",
            )
        body = super().body(call, stream=stream)
        body["model"] = call.adapter or self.model
        body["cache_salt"] = hashlib.sha256(b"discreet cache of " + call.tenant.encode()).hexdigest()
        if call.pattern:
            body["structured_outputs"] = {"regex": call.pattern}
        return body

    async def _check(
        self,
        call: Call,  # noqa: ARG002  # as in the base
        body: Mapping[str, Any],
        document: Mapping[str, Any],
    ) -> None:
        if document.get("model") != body["model"]:
            raise WrongAnswererError("another model answered than was asked")
