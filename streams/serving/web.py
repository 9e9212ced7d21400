"""The serving process over HTTP: what it holds, answers, and losses of given texts. Loopback, with a token.

    GET  /healthz                                            200 when the process runs (no token)
    GET  /v1/adapters                                        {"adapters": {line: name}, "failures"}
    POST /v1/answers   {"prompt", "model", "max_new_tokens"} {"text"}
    POST /v1/losses    {"pairs": [[prompt, completion]], "model"}   {"losses"}

``model`` is a served name, or ``null`` for the base model. The standard library's server is enough for one
machine; nothing of a request is logged.
"""

from __future__ import annotations

import hmac
import json
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from streams.serving.holder import Holdings

LOOPBACK = "127.0.0.1"
MAX_BODY_BYTES = 1_000_000
MAX_NEW_TOKENS = 256


class AnsweringHost(Protocol):
    """What the HTTP side asks of the model side."""

    def answer(self, prompt: str, *, name: str | None, max_new_tokens: int) -> str:
        """Return the model's answer."""

    def losses(self, pairs: Sequence[tuple[str, str]], *, name: str | None) -> list[float]:
        """Return the mean negative log-likelihood per completion token of each pair."""


class ServingWeb:
    """The HTTP side as a context manager; it listens from entering on.

    Args:
        port: where to listen on the loopback; 0 picks a free port.
        token: the bearer token that every request but ``/healthz`` must carry.
        host: the model.
        holdings: what is held, kept up to date by the holder.
    """

    def __init__(self, *, port: int, token: str, host: AnsweringHost, holdings: Holdings) -> None:
        actions: dict[tuple[str, str], Callable[[dict[str, Any]], dict[str, Any]]] = {
            ("GET", "/v1/adapters"): lambda _: {"adapters": holdings.current, "failures": holdings.failures},
            ("POST", "/v1/answers"): lambda body: {"text": _answer(host, body)},
            ("POST", "/v1/losses"): lambda body: {"losses": _losses(host, body)},
        }
        self._server = ThreadingHTTPServer((LOOPBACK, port), _handler(actions, token))
        self._thread = threading.Thread(target=self._server.serve_forever, name="serving-web", daemon=True)
        self.port = int(self._server.server_address[1])

    def __enter__(self) -> ServingWeb:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _answer(host: AnsweringHost, body: dict[str, Any]) -> str:
    limit = min(int(body.get("max_new_tokens", 48)), MAX_NEW_TOKENS)
    return host.answer(str(body["prompt"]), name=body.get("model"), max_new_tokens=limit)


def _losses(host: AnsweringHost, body: dict[str, Any]) -> list[float]:
    pairs = [(str(prompt), str(completion)) for prompt, completion in body["pairs"]]
    return host.losses(pairs, name=body.get("model"))


def _handler(
    actions: dict[tuple[str, str], Callable[[dict[str, Any]], dict[str, Any]]], token: str
) -> type[BaseHTTPRequestHandler]:
    """Return the request handler class that ``http.server`` makes one instance of per connection."""
    expected = f"Bearer {token}".encode()

    class Handler(BaseHTTPRequestHandler):
        """Answers one connection."""

        def do_GET(self) -> None:  # named by http.server
            """Answer a GET."""
            if self.path == "/healthz":
                self._reply(HTTPStatus.OK, {"status": "ok"})
            else:
                self._act("GET")

        def do_POST(self) -> None:  # named by http.server
            """Answer a POST."""
            self._act("POST")

        def log_message(self, *_: object) -> None:
            """Log nothing: a request line could name what was asked."""

        def _act(self, method: str) -> None:
            # Read before refusing: a client that is still sending would see a broken connection, not the answer.
            length = int(self.headers.get("Content-Length") or 0)
            content = self.rfile.read(min(length, 2 * MAX_BODY_BYTES))
            given = self.headers.get("Authorization", "").encode()
            if not hmac.compare_digest(given, expected):
                self._reply(HTTPStatus.UNAUTHORIZED, {"error": "serving.access.denied"})
                return
            action = actions.get((method, self.path))
            if action is None:
                self._reply(HTTPStatus.NOT_FOUND, {"error": "serving.path.unknown"})
                return
            if len(content) > MAX_BODY_BYTES:
                self._reply(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": "serving.request.oversized"})
                return
            try:
                self._reply(HTTPStatus.OK, action(json.loads(content) if content else {}))
            except KeyError:
                self._reply(HTTPStatus.NOT_FOUND, {"error": "serving.model.unknown"})
            except (TypeError, ValueError):
                self._reply(HTTPStatus.BAD_REQUEST, {"error": "serving.request.invalid"})

        def _reply(self, status: HTTPStatus, document: dict[str, Any]) -> None:
            payload = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

    return Handler
