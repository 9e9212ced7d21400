"""``discreet serve`` as an engine: it answers prompts, greedily and in one piece, and lists only what it verified.

It has a protocol of its own (``streams.serving.web``). A conversation of several messages becomes one prompt; what it
cannot do is refused, except the parameters of sampling, which have no effect on greedy answers.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from streams.errors import EngineAwayError, GatewayError
from streams.gateway.requests import Form
from streams.gateway.upstreams import OpenAIUpstream, read_all, read_document

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from streams.gateway.upstreams import Call

DEFAULT_TOKENS = 48
_CANNOT = (
    "tools",
    "tool_choice",
    "logprobs",
    "top_logprobs",
    "suffix",
    "echo",
    "logit_bias",
    "response_format",
)


class ExampleServerUpstream(OpenAIUpstream):
    """One serving process of ours."""

    applies_adapters = True
    proves = True
    favours = True

    async def held(self) -> frozenset[str]:
        """Return the served name of each line's current version; it is current only once it is verified."""
        document = await self._get("/v1/adapters")
        adapters = document.get("adapters") if isinstance(document, dict) else None
        if not isinstance(adapters, dict):
            raise EngineAwayError("the engine does not list its adapters")
        return frozenset(map(str, adapters.values()))

    async def whole(self, call: Call) -> dict[str, Any]:
        """Return the answer as OpenAI's API has it; see ``Upstream``."""
        body = {**self.body(call, stream=False), "stream": False}
        async with self._answer(call, body, path="/v1/answers") as answer:
            text = read_document(await read_all(answer)).get("text")
        if not isinstance(text, str):
            raise EngineAwayError("the engine's answer holds no text")
        return _answer_of(call.form, _stopped(text, call.document.get("stop")))

    async def pieces(self, call: Call) -> AsyncIterator[dict[str, Any]]:
        """Yield the whole answer as one piece, and its end; see ``Upstream``."""
        document = await self.whole(call)
        shared = {"id": "", "created": document["created"], "model": ""}
        (choice,) = document["choices"]
        if call.form is Form.COMPLETIONS:
            piece = {"index": 0, "text": choice["text"], "logprobs": None, "finish_reason": "stop"}
            yield {**shared, "object": "text_completion", "choices": [piece]}
            return
        told = {"role": "assistant", "content": choice["message"]["content"]}
        for delta, finish in ((told, None), ({}, "stop")):
            piece = {"index": 0, "delta": delta, "finish_reason": finish}
            yield {**shared, "object": "chat.completion.chunk", "choices": [piece]}

    def body(self, call: Call, *, stream: bool) -> dict[str, Any]:  # noqa: ARG002  # it knows no streams
        """Return the request's body in the server's own protocol.

        Raises:
            GatewayError: the request needs what the server cannot do.
        """
        document = call.document
        wanted = next((name for name in _CANNOT if document.get(name)), None)
        if wanted is not None or document.get("n") not in (None, 1):
            raise GatewayError(
                f"this engine does not know {wanted or 'n'}; leave it out",
                param=wanted or "n",
                word="unsupported_parameter",
            )
        tokens = document.get("max_completion_tokens") or document.get("max_tokens") or DEFAULT_TOKENS
        if not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 1:
            raise GatewayError("max_tokens must be a whole number of at least 1", param="max_tokens")
        told = {"prompt": _prompt(call), "model": call.adapter, "max_new_tokens": tokens}
        return {**told, "favour": list(call.favour)} if call.favour else told


def _prompt(call: Call) -> str:
    if call.form is Form.COMPLETIONS:
        prompt = call.document["prompt"]
        if not isinstance(prompt, str):
            raise GatewayError("this engine takes one prompt, as text", param="prompt")
        return prompt
    messages = call.document["messages"]
    texts = [message.get("content") for message in messages]
    texts = [
        "".join(part.get("text", "") for part in text if isinstance(part, dict))
        if isinstance(text, list)
        else text
        for text in texts
    ]
    if any(not isinstance(text, str) for text in texts):
        raise GatewayError("this engine takes messages of text", param="messages")
    if len(messages) == 1:
        return str(texts[0])
    told = [
        str(text) if message["role"] in ("system", "developer") else f"{message['role'].capitalize()}: {text}"
        for message, text in zip(messages, texts, strict=True)
    ]
    return "\n\n".join([*told, "Assistant:"])


def _stopped(text: str, stop: object) -> str:
    """Return the text up to the first of the texts at which it is to stop."""
    marks = [stop] if isinstance(stop, str) else stop if isinstance(stop, list) else []
    ends = [text.find(mark) for mark in marks if isinstance(mark, str) and mark]
    return text[: min((end for end in ends if end >= 0), default=len(text))]


def _answer_of(form: Form, text: str) -> dict[str, Any]:
    choice: Mapping[str, Any] = (
        {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        if form is Form.CHAT
        else {"index": 0, "text": text, "logprobs": None, "finish_reason": "stop"}
    )
    kind = "chat.completion" if form is Form.CHAT else "text_completion"
    return {"id": "", "object": kind, "created": int(time.time()), "model": "", "choices": [choice]}
