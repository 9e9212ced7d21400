"""A line's terms in the gateway: those that people wrote and those that its users' vote found, told and put right."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import orjson
import structlog

from personalization.errors import PersonalizationError
from personalization.rollouts.values import Flag
from personalization.styles.card import StyleCard
from personalization.styles.families import Feature
from personalization.terms.values import TermList, TermUse, signed_bytes
from streams.client.terms import LONGEST_TERM, Terms
from streams.gateway.signed import vouched

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from personalization.terms.values import SignedTerms
    from streams.client.terms import Term
    from streams.gateway.desired import Line
    from streams.gateway.directory import Directory

log = structlog.get_logger(__name__)

KEPT: Final = 100_000  # above the lines of a gateway: one too many, read in turn, and nothing is found kept
MOST_TOLD: Final = 12  # terms in one prompt


@dataclass(frozen=True, kw_only=True)
class UsableTerms:
    """The terms of a line, ready to be looked for."""

    use: TermUse
    terms: Terms

    def told(self, *texts: str) -> tuple[Term, ...]:
        """Return the terms that a prompt is told of: those that it, and what stands before it, speaks of."""
        return self.terms.within(*texts)[:MOST_TOLD] if self.use.tells else ()


def line_terms(found: Mapping[str, SignedTerms], keys: Sequence[bytes]) -> dict[str, TermList]:
    """Return what people decided about lines' terms, without what no trusted key signed for that line."""
    trusted = tuple(keys)
    usable: dict[str, TermList] = {}
    for line_ref, signed in found.items():
        if _signed(line_ref, signed, trusted):
            usable[line_ref] = signed.terms
    return usable


def terms_for(directory: Directory, line_ref: str | None, line: Line | None) -> UsableTerms | None:
    """Return the terms of a line; none where its flag is off."""
    lowered = directory.flags.get(line_ref or "")
    if line_ref is None or Flag.OFF in {lowered, None if line is None else line.flag}:
        return None
    card = b"" if line is None or line.adapter is None else line.adapter.card
    return usable_terms(directory.terms.get(line_ref), card)


@lru_cache(maxsize=KEPT)
def usable_terms(decided: TermList | None, card: bytes) -> UsableTerms | None:
    """Return the terms of a line; ``None`` where they are off or there are none.

    Args:
        decided: what people decided; without it terms are off.
        card: the style card of the version that the line serves, as JSON; empty where there is none.
    """
    if decided is None or decided.use is TermUse.OFF:
        return None
    struck = set(decided.removed)
    pairs = [(one.written, one.meant) for one in decided.pairs]
    pairs += [(written, meant) for handle, written, meant in found_terms(card) if handle not in struck]
    return UsableTerms(use=decided.use, terms=Terms(pairs)) if pairs else None


@lru_cache(maxsize=KEPT)
def found_terms(card: bytes) -> tuple[tuple[str, str, str], ...]:
    """Return (handle, written, meant) of each term that a released card tells; none where it cannot be read."""
    if not card:
        return ()
    try:
        told = StyleCard.from_document(orjson.loads(card)).of(Feature.TERM)
    except (PersonalizationError, ValueError):
        return ()
    return tuple((one.handle, one.key, one.words) for one in told if _usable(one.key) and _usable(one.words))


def glossary(terms: Iterable[Term]) -> str:
    """Return the lines that tell a prompt about terms; empty for none."""
    lines = [f"- {one.meant}" + ("" if _same(one) else f' (not "{one.written}")') for one in terms]
    return "\n".join(["Terms:", *lines]) if lines else ""


def _usable(side: str) -> bool:
    return 0 < len(side) <= LONGEST_TERM and side.strip() == side and side.isprintable()


def _same(term: Term) -> bool:
    return term.written.casefold() == term.meant.casefold()


@lru_cache(maxsize=KEPT)
def _signed(line_ref: str, signed: SignedTerms, keys: tuple[bytes, ...]) -> bool:
    fine = vouched(keys, signed.key_id, signed.signature, signed_bytes(line_ref, signed.terms))
    if not fine:
        log.warning("terms_not_signed", line_ref=line_ref)
    return fine
