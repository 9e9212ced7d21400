"""A frame's text, taken apart: literal pieces and slots; doubled braces are what users typed themselves."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from personalization.styles.abstraction import COPY, NUMBER, TEXT

if TYPE_CHECKING:
    from collections.abc import Callable

_PARTS: Final = re.compile(r"\{\{|\}\}|\{t\}|\{copy\}|\{n\}|[^{}]+|.", re.DOTALL)
_BRACES: Final = {"{{": "{", "}}": "}"}


class Piece(NamedTuple):
    """A literal part of a frame, braces single, or one of its slots."""

    text: str
    is_slot: bool = False


def pieces(frame: str) -> tuple[Piece, ...]:
    """Return the pieces of a frame in order; no two literal ones stand side by side."""
    found: list[Piece] = []
    for part in _PARTS.findall(frame):
        if part in {TEXT, COPY, NUMBER}:
            found.append(Piece(part, is_slot=True))
            continue
        text = _BRACES.get(part, part)
        if found and not found[-1].is_slot:
            text = found.pop().text + text
        found.append(Piece(text))
    return tuple(found)


def filled(frame: str, filling: Callable[[str], str]) -> str:
    """Return a frame as text, each slot as ``filling`` says; what users typed stays as they typed it."""
    return "".join(filling(piece.text) if piece.is_slot else piece.text for piece in pieces(frame))
