"""Operators' prompt templates in the gateway: whose signature counts, who gets which, and what a request may set."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import structlog

from personalization.errors import PersonalizationError
from personalization.prompts.rendering import rendering_of
from personalization.prompts.values import signed_bytes
from streams.client.signatures import key_id, verify
from streams.errors import GatewayError
from streams.gateway.choosing import within_share

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from personalization.prompts.rendering import Rendering
    from personalization.prompts.rows import Standing
    from personalization.prompts.values import PromptTemplate, SignedTemplate, Variable

log = structlog.get_logger(__name__)

KEPT: Final = 10_000


@dataclass(frozen=True, kw_only=True)
class UsablePrompt:
    """A template that was checked and can be used."""

    template: PromptTemplate
    rendering: Rendering


@dataclass(frozen=True, kw_only=True)
class LinePrompts:
    """Which operators' templates a line uses; see ``personalization.prompts.rows.Standing``."""

    current: UsablePrompt | None = None
    candidate: UsablePrompt | None = None
    candidate_percent: float = 0.0
    salt: str = ""

    def of(self, subject: str | None) -> UsablePrompt | None:
        """Return the template of a subject; without a name nobody gets the candidate."""
        if self.candidate is not None and within_share(self.salt, subject, self.candidate_percent):
            return self.candidate
        return self.current


def line_prompts(standings: Mapping[str, Standing], keys: Sequence[bytes]) -> dict[str, LinePrompts]:
    """Return what lines use, without templates that no trusted key signed for that line.

    Args:
        standings: what the database says, by line.
        keys: raw public keys.
    """
    trusted = tuple(keys)
    return {
        line_ref: LinePrompts(
            current=_usable(line_ref, stands.current, trusted),
            candidate=_usable(line_ref, stands.candidate, trusted),
            candidate_percent=stands.candidate_percent,
            salt=stands.salt,
        )
        for line_ref, stands in standings.items()
    }


def require_allowed(template: PromptTemplate, metadata: Mapping[str, str]) -> None:
    """Refuse a request that sets a declared variable to what it may not be.

    Raises:
        GatewayError: it does.
    """
    for one in template.variables:
        if one.name in metadata and not one.allows(metadata[one.name]):
            raise GatewayError(
                f"the variable {one.name!r} may not have this value; allowed is {_allowed(one)}",
                param="metadata",
                word="invalid_variable",
            )


def _allowed(variable: Variable) -> str:
    return f"one of {', '.join(variable.choices)}" if variable.choices else "a short text on one line"


def _usable(line_ref: str, signed: SignedTemplate | None, keys: tuple[bytes, ...]) -> UsablePrompt | None:
    return None if signed is None else _checked(line_ref, signed, keys)


@lru_cache(maxsize=KEPT)
def _checked(line_ref: str, signed: SignedTemplate, keys: tuple[bytes, ...]) -> UsablePrompt | None:
    try:
        signature = base64.b64decode(signed.signature, validate=True)
        message = signed_bytes(line_ref, signed.template)
        if not any(key_id(key) == signed.key_id and verify(key, signature, message) for key in keys):
            log.warning("prompt_template_not_signed", line_ref=line_ref)
            return None
        return UsablePrompt(template=signed.template, rendering=rendering_of(signed.template))
    except (ValueError, PersonalizationError):
        log.warning("prompt_template_refused", line_ref=line_ref)
        return None
