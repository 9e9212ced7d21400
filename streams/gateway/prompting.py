"""Operators' prompt templates in the gateway: whose signature counts, who gets which, and what a request may set."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import structlog

from personalization.errors import PersonalizationError
from personalization.prompts.rendering import rendering_of
from personalization.prompts.values import signed_bytes
from personalization.rollouts.values import Flag
from streams.errors import GatewayError
from streams.gateway.choosing import within_share
from streams.gateway.signed import vouched

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from personalization.prompts.rendering import Rendering
    from personalization.prompts.rows import Standing
    from personalization.prompts.values import PromptTemplate, SignedTemplate, Variable
    from streams.gateway.directory import Directory

log = structlog.get_logger(__name__)

KEPT: Final = 100_000  # above the lines of a gateway: one too many, read in turn, and nothing is found kept


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


def prompt_for(directory: Directory, line_ref: str | None, user: str | None) -> UsablePrompt | None:
    """Return the operator's template that a subject gets; none where the line's flag is off."""
    prompts = None if line_ref is None else directory.prompts.get(line_ref)
    if prompts is None or directory.flags.get(line_ref or "") is Flag.OFF:
        return None
    return prompts.of(user)


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
        if not vouched(keys, signed.key_id, signed.signature, signed_bytes(line_ref, signed.template)):
            log.warning("prompt_template_not_signed", line_ref=line_ref)
            return None
        return UsablePrompt(template=signed.template, rendering=rendering_of(signed.template))
    except PersonalizationError:
        log.warning("prompt_template_refused", line_ref=line_ref)
        return None
