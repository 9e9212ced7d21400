"""Answers of the operator API pass the boundary: a field without a mark is not answered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from privacy.boundary.marks import Kind
from privacy.boundary.register import BOUNDARY

if TYPE_CHECKING:
    from collections.abc import Mapping


def answer(
    document: Mapping[str, object], *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Return a JSON answer.

    Raises:
        BoundaryError: a field has no mark.
    """
    released = BOUNDARY.release(Kind.HTTP_ANSWER, document, document)
    return web.json_response(released.value, status=status, headers=headers)
