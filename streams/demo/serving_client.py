"""Ask the serving process over HTTP what it holds, for answers and for losses."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

from streams.errors import ServingUnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

TIMEOUT_SECONDS = 120.0


class ServingClient:
    """One serving process on the loopback."""

    def __init__(self, port: int, token: str) -> None:
        self._base = f"http://127.0.0.1:{port}"
        self._token = token

    def is_up(self) -> bool:
        """Say whether the process answers."""
        try:
            self._request("/healthz", None, timeout=2.0)
        except ServingUnavailableError:
            return False
        return True

    def current(self) -> tuple[dict[str, str], dict[str, str]]:
        """Return the served name per adapter line, and the failure code per served name."""
        held = self._request("/v1/adapters", None)
        return held["adapters"], held["failures"]

    def answers(
        self, prompts: Sequence[str], model: str | None, *, max_new_tokens: int, template: str | None = None
    ) -> list[str]:
        """Return the model's answer to each prompt; ``None`` asks the base model.

        ``template`` names a line, whose prompt template is put around the prompts.
        """
        body: dict[str, Any] = {
            "prompts": list(prompts),
            "model": model,
            "max_new_tokens": max_new_tokens,
            "template": template,
        }
        return [str(text) for text in self._request("/v1/answers", body)["texts"]]

    def losses(self, pairs: Sequence[tuple[str, str]], model: str | None) -> list[float]:
        """Return the mean negative log-likelihood per token of each (prompt, completion)."""
        return [
            float(loss)
            for loss in self._request("/v1/losses", {"pairs": list(pairs), "model": model})["losses"]
        ]

    def _request(
        self, path: str, body: dict[str, Any] | None, *, timeout: float = TIMEOUT_SECONDS
    ) -> dict[str, Any]:
        request = urllib.request.Request(  # noqa: S310  # always http on the loopback
            self._base + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self._token}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:  # noqa: S310  # as above
                return dict(json.loads(response.read()))
        except (OSError, ValueError) as error:
            raise ServingUnavailableError(f"the serving process did not answer {path}: {error}") from error
