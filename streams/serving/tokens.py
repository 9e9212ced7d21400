"""Who may ask a server for which adapter lines: tokens with a list of lines each, for several tenants of one server.

A line or version that a token does not reach looks from outside like one that does not exist.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from streams.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

_LINE = re.compile("[a-z0-9][a-z0-9-]{0,127}")
LEAST_CHARACTERS = 16


@dataclass(frozen=True)
class Scope:
    """What a token reaches: these adapter lines, or all (``None``). The base model belongs to everybody who may ask."""

    lines: frozenset[str] | None

    def reaches(self, line_ref: str | None) -> bool:
        """Say whether the token reaches a line; of a version that is not held the line is ``None``."""
        return self.lines is None or line_ref in self.lines


@dataclass(frozen=True)
class ServerTokens:
    """The tokens of a server by their SHA-256, with what each reaches."""

    scopes: Mapping[bytes, Scope] = field(repr=False)

    def scope_of(self, authorization: str) -> Scope | None:
        """Return what the token of an ``Authorization`` header reaches; ``None`` for one that is not known."""
        scheme, _, token = authorization.partition(" ")
        digest, found = _digest(token), None
        for known, scope in self.scopes.items():  # all of them, so that time says nothing
            if hmac.compare_digest(digest, known):
                found = scope
        return found if scheme.lower() == "bearer" else None


def server_tokens(everything: str | None, scoped: str | None) -> ServerTokens:
    """Return the tokens of a server.

    Args:
        everything: a token that reaches every line, for an operator's own use.
        scoped: ``TOKEN=LINE,LINE;TOKEN=LINE``: tokens that reach the adapter lines named behind them.

    Raises:
        SettingsError: there is no token at all, one is too short or given twice, or a line is not one.
    """
    scopes: dict[bytes, Scope] = {}
    if everything is not None:
        scopes[_digest(everything)] = Scope(None)
    for number, part in enumerate(filter(None, (one.strip() for one in (scoped or "").split(";"))), 1):
        token, _, names = (one.strip() for one in part.partition("="))
        lines = frozenset(name.strip() for name in names.split(",") if name.strip())
        if len(token) < LEAST_CHARACTERS or not lines or not all(map(_LINE.fullmatch, lines)):
            raise SettingsError(
                f"entry {number} of DISCREET_SERVING__SCOPED_TOKENS is not usable; allowed are TOKEN=LINE,LINE with a "
                f"token of at least {LEAST_CHARACTERS} characters and adapter lines, separated by semicolons"
            )
        if _digest(token) in scopes:
            raise SettingsError(
                f"the token of entry {number} of DISCREET_SERVING__SCOPED_TOKENS is given twice"
            )
        scopes[_digest(token)] = Scope(lines)
    if not scopes:
        raise SettingsError(
            "no token is set; put a random one into DISCREET_SERVING__TOKEN, or tokens with the adapter lines that "
            "they reach into DISCREET_SERVING__SCOPED_TOKENS"
        )
    return ServerTokens(scopes)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogateescape")).digest()
