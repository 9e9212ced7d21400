"""Ask an engine over HTTP: JSON, a key, time-outs, and answers of bounded size."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from streams.errors import EngineUnreachableError

LARGEST_ANSWER = 64 << 20  # bytes


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Status and body of an answer."""

    status: int
    body: bytes

    def json(self) -> Any:
        """Return the body as JSON.

        Raises:
            EngineUnreachableError: it is none.
        """
        try:
            return json.loads(self.body)
        except ValueError:
            raise EngineUnreachableError("the engine's answer is no JSON") from None


class EngineHttp:
    """One engine's address.

    Args:
        url: without a path, for example ``http://127.0.0.1:8000``.
        key: bearer token; empty sends none.
        timeout_seconds: of one request.
    """

    def __init__(self, url: str, key: str = "", *, timeout_seconds: float = 60.0) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError("an engine's address begins with http:// or https://")
        self._url = url.rstrip("/")
        self._headers = {
            "Content-Type": "application/json",
            **({"Authorization": f"Bearer {key}"} if key else {}),
        }
        self._timeout = timeout_seconds

    def ask(self, path: str, body: object = None, *, seconds: float | None = None) -> Answer:
        """Send a request (POST with a body, else GET) and return the answer, whatever its status.

        Raises:
            EngineUnreachableError: none came, or a larger one than any may be.
        """
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data=data, headers=self._headers)  # noqa: S310  # checked above
        try:
            with urllib.request.urlopen(request, timeout=seconds or self._timeout) as answer:  # noqa: S310  # as above
                return Answer(status=answer.status, body=_read(answer))
        except urllib.error.HTTPError as refused:
            with refused:
                return Answer(status=refused.code, body=_read(refused))
        except (OSError, http.client.HTTPException) as error:
            raise EngineUnreachableError(f"the engine does not answer ({type(error).__name__})") from None

    def get(self, path: str) -> Any:
        """Return a JSON answer of status 200.

        Raises:
            EngineUnreachableError: there is none.
        """
        answer = self.ask(path)
        if answer.status != 200:
            raise EngineUnreachableError(f"the engine answers {path} with status {answer.status}")
        return answer.json()


def _read(answer: Any) -> bytes:
    content: bytes = answer.read(LARGEST_ANSWER + 1)
    if len(content) > LARGEST_ANSWER:
        raise EngineUnreachableError("the engine's answer is larger than any may be")
    return content
