"""Form answers and errors as clients of OpenAI's API read them; the id and the model's name are the gateway's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson
from starlette.responses import Response

from privacy.boundary.marks import Kind
from privacy.boundary.register import BOUNDARY
from streams.gateway.requests import Form

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streams.client.terms import TermStream
    from streams.errors import GatewayError
    from streams.gateway.choosing import Choice

HEADERS: Final = tuple(
    f"x-discreet-{name}" for name in ("request", "line", "version", "template", "constraint", "reason")
)
ROUTE_HEADERS: Final = (
    "x-discreet-route",
    *(f"x-discreet-route-{n}" for n in ("reason", "score", "margin", "version")),
)
DROPPED_HEADER: Final = "x-discreet-dropped"
TERMS_HEADER: Final = "x-discreet-terms"
LEVERS_HEADER: Final = "x-discreet-levers"
MEMORY_HEADER: Final = "x-discreet-memory"
PENALTY_HEADER: Final = "x-discreet-presence-penalty"
BOUNDARY.require(
    Kind.HTTP_ANSWER,
    (*HEADERS, *ROUTE_HEADERS, DROPPED_HEADER, TERMS_HEADER, LEVERS_HEADER, MEMORY_HEADER, PENALTY_HEADER),
)
DONE: Final = b"data: [DONE]\n\n"
PING: Final = b": ping\n\n"
_PREFIX: Final = {Form.CHAT: "chatcmpl-", Form.COMPLETIONS: "cmpl-"}


def new_id(form: Form, random: str) -> str:
    """Return the id of an answer."""
    return _PREFIX[form] + random


def applied(answer_id: str, choice: Choice, constraint: str | None) -> dict[str, str]:
    """Return the headers that say how an answer was made."""
    values = (
        answer_id,
        choice.line_ref or "none",
        choice.adapter or "base",
        choice.template.name if choice.template is not None else "none",
        constraint or "none",
        choice.reason.value,
    )
    return dict(zip(HEADERS, values, strict=True))


def json_answer(document: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a document as an answer."""
    return Response(
        orjson.dumps(document),
        status_code=status,
        headers=None if headers is None else dict(headers),
        media_type="application/json",
    )


def error_document(error: GatewayError) -> dict[str, Any]:
    """Return an error in OpenAI's form."""
    text = str(error)
    return {
        "error": {
            "message": text[:1].upper() + text[1:] + ".",
            "type": error.kind,
            "param": error.param,
            "code": error.word or error.code,
        }
    }


def error_answer(error: GatewayError, headers: Mapping[str, str] | None = None) -> Response:
    """Return an error as an answer."""
    more = dict(headers or {})
    if error.retry_after is not None:
        more["Retry-After"] = str(error.retry_after)
    if error.status == 401:
        more["WWW-Authenticate"] = "Bearer"
    return json_answer(error_document(error), status=error.status, headers=more)


def frame(document: object) -> bytes:
    """Return a document as one server-sent event."""
    return b"data: " + orjson.dumps(document) + b"\n\n"


def said(form: Form, document: Mapping[str, Any]) -> str | None:
    """Return the text of an answer in one piece; ``None`` when it holds anything but one text."""
    choices = document.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        return None
    if form is Form.COMPLETIONS:
        text = choices[0].get("text")
    else:
        message = choices[0].get("message") or {}
        text = None if message.get("tool_calls") else message.get("content")
    return text if isinstance(text, str) else None


def say(form: Form, document: dict[str, Any], text: str) -> None:
    """Put another text in the place of an answer's one text."""
    choice = document["choices"][0]
    if form is Form.COMPLETIONS:
        choice["text"] = text
    else:
        choice["message"]["content"] = text


def tokens(document: Mapping[str, Any]) -> int | None:
    """Return how many tokens an answer has, if its engine tells."""
    usage = document.get("usage")
    count = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return count if type(count) is int and count >= 0 else None


class TermPieces:
    """A stream's pieces with its terms put right, each with as much text as is decided by then.

    Args:
        form: chat or completions.
        terms: of this stream.
    """

    def __init__(self, form: Form, terms: TermStream) -> None:
        self._completions = form is Form.COMPLETIONS
        self._terms = terms
        self._said: dict[str, Any] | None = None  # the last piece with text; one that is added looks like it

    def put_right(self, piece: dict[str, Any]) -> list[dict[str, Any]]:
        """Return what is sent for a piece: itself, and before an end without text what was held back until then."""
        choices = piece.get("choices")
        if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
            return [piece]
        part, name = self._text_of(choices[0])
        ends = choices[0].get("finish_reason") is not None
        if not isinstance(part.get(name), str):
            return [*self.rest(), piece] if ends else [piece]
        part[name] = self._terms.add(part[name]) + (self._terms.end() if ends else "")
        self._said = {**piece, "choices": [dict(choices[0])]}
        return [piece]

    def rest(self) -> list[dict[str, Any]]:
        """Return a piece with what was held back, if anything was: nothing more comes."""
        held = self._terms.end()
        if not held or self._said is None:
            return []
        choice = {**self._said["choices"][0], "finish_reason": None}
        choice |= {"text": held} if self._completions else {"delta": {"content": held}}
        return [
            {**{name: value for name, value in self._said.items() if name != "usage"}, "choices": [choice]}
        ]

    def _text_of(self, choice: dict[str, Any]) -> tuple[dict[str, Any], str]:
        if self._completions:
            return choice, "text"
        delta = choice.get("delta")
        return (delta if isinstance(delta, dict) else {}), "content"


class Transcript:
    """What a stream has said so far."""

    def __init__(self, form: Form) -> None:
        self._form = form
        self._texts: list[str] = []
        self._plain = True
        self.finished = False

    @property
    def text(self) -> str | None:
        """The text so far; ``None`` when the stream held anything but one text."""
        return "".join(self._texts) if self._plain else None

    def add(self, piece: Mapping[str, Any]) -> None:
        """Take one piece in."""
        for choice in piece.get("choices") or ():
            if choice.get("finish_reason") is not None:
                self.finished = True
            if choice.get("index", 0) != 0:
                self._plain = False
            if self._form is Form.COMPLETIONS:
                text = choice.get("text")
            else:
                delta = choice.get("delta") or {}
                text = delta.get("content")
                self._plain &= not delta.get("tool_calls")
            if isinstance(text, str):
                self._texts.append(text)
