"""Read a request's body strictly: in time, in UTF-8, as JSON of a sane shape, with text that a database can keep."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiohttp.web_exceptions import HTTPRequestTimeout, HTTPUnsupportedMediaType

from streams.errors import MalformedRequestError

if TYPE_CHECKING:
    from collections.abc import Iterable

BODY_SECONDS = 10.0
DEEPEST = 32


async def json_body(request: web.Request, *, seconds: float = BODY_SECONDS) -> Any:
    """Return the JSON document in a request's body.

    Raises:
        MalformedRequestError: it is no JSON, too deep, or holds text that is none.
        web.HTTPRequestTimeout: it did not arrive in time.
        web.HTTPRequestEntityTooLarge: it is larger than the application allows.
        web.HTTPUnsupportedMediaType: it is packed.
    """
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise HTTPUnsupportedMediaType(reason="bodies must not be packed; leave Content-Encoding out")
    try:
        async with asyncio.timeout(seconds):
            body = await request.read()
    except TimeoutError:
        raise HTTPRequestTimeout(reason=f"the body did not arrive within {seconds:g} s") from None
    except web.RequestPayloadError:
        raise MalformedRequestError("the body is not what the header announced") from None
    return parsed(body)


def parsed(body: bytes) -> Any:
    """Return the JSON document in ``body``.

    Raises:
        MalformedRequestError: see ``json_body``.
    """
    try:
        document = _READER.decode(body.decode())
    except (ValueError, RecursionError):
        raise MalformedRequestError("the request's body is not JSON") from None
    _check(document)
    return document


def require_text(texts: Iterable[str]) -> None:
    """Refuse what no database keeps: NUL, and halves of surrogate pairs.

    Raises:
        MalformedRequestError: a text holds one.
    """
    for text in texts:
        if _NO_TEXT.search(text):
            raise MalformedRequestError("a text holds a NUL or half a surrogate pair; neither is allowed")


def _refuse(name: str) -> None:
    raise ValueError(name)


_READER = json.JSONDecoder(parse_constant=_refuse)  # made once: it costs as much as reading a short body
_NO_TEXT = re.compile("[\x00\ud800-\udfff]")


def _check(document: Any) -> None:
    level: list[Any] = [document]
    for _ in range(DEEPEST):
        below: list[Any] = []
        for value in level:
            if isinstance(value, str):
                require_text((value,))
            elif isinstance(value, dict):
                require_text(value)
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
            elif isinstance(value, float) and value in (float("inf"), float("-inf")):
                raise MalformedRequestError("a number is too large")
        if not below:
            return
        level = below
    raise MalformedRequestError(f"the JSON is nested deeper than {DEEPEST} levels")
