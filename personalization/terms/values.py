"""What people decided about a line's terms, as a version: how they are used, those written by hand, those struck."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Self

from personalization.errors import TermsError
from privacy.canonical import canonical_json, digest_of

if TYPE_CHECKING:
    from collections.abc import Iterable

FORMAT: Final = "discreet.terms.v1"
MOST_TERMS: Final = 500
MOST_PROPOSED: Final = 200
LONGEST_TERM: Final = 80
NAME_LENGTH: Final = 16
_HANDLE: Final = 12


class TermUse(StrEnum):
    """What is done with a line's terms."""

    OFF = "off"
    GLOSSARY = "glossary"  # those that a prompt speaks of are told in it
    CORRECT = "correct"  # answers are put right
    BOTH = "both"
    FAVOUR = (
        "favour"  # both, and engines that can make those that a prompt is told of likelier while they answer
    )

    @property
    def tells(self) -> bool:
        """Whether prompts are told."""
        return self in {TermUse.GLOSSARY, TermUse.BOTH, TermUse.FAVOUR}

    @property
    def corrects(self) -> bool:
        """Whether answers are put right."""
        return self in {TermUse.CORRECT, TermUse.BOTH, TermUse.FAVOUR}


@dataclass(frozen=True, kw_only=True)
class TermPair:
    """One term: what stands in texts that have it wrong, and what is meant."""

    written: str
    meant: str

    def __post_init__(self) -> None:
        for side in (self.written, self.meant):
            fine = isinstance(side, str) and side.strip() == side and 0 < len(side) <= LONGEST_TERM
            if not fine or not side.isprintable():
                raise TermsError(
                    f"a side of a term is {str(side)[:80]!r}; allowed is text on one line of 1 to {LONGEST_TERM} "
                    "characters, without spaces around it"
                )
        if self.written == self.meant:
            raise TermsError(f"the term {self.meant!r} stands for itself; give what is written instead of it")

    @property
    def key(self) -> str:
        """By which two terms are the same: what is written, in small letters."""
        return " ".join(self.written.casefold().split())


@dataclass(frozen=True, kw_only=True)
class TermList:
    """One version.

    Attributes:
        use: what is done with terms, these and those that users' vote found.
        pairs: written by hand, or taken from the vote to stay.
        removed: handles of found terms that are not used, whatever a vote says.
        proposed: a public list that users vote over; what of it they do is found, and nothing else is.
    """

    use: TermUse = TermUse.OFF
    pairs: tuple[TermPair, ...] = ()
    removed: tuple[str, ...] = ()
    proposed: tuple[TermPair, ...] = ()

    def __post_init__(self) -> None:
        if len(self.pairs) > MOST_TERMS or len(self.removed) > MOST_TERMS:
            raise TermsError(f"a line has at most {MOST_TERMS} terms of its own, and as many struck ones")
        if len(self.proposed) > MOST_PROPOSED:
            raise TermsError(
                f"{len(self.proposed)} terms are proposed; users vote over at most {MOST_PROPOSED} of a line"
            )

    @property
    def version_id(self) -> str:
        """The ``sha256:`` digest of the content."""
        return digest_of(self.to_document())

    @property
    def name(self) -> str:
        """The first digits of the digest."""
        return self.version_id.removeprefix("sha256:")[:NAME_LENGTH]

    def with_pairs(self, pairs: Iterable[TermPair]) -> Self:
        """Return the list with terms added; one with the same written side takes the place of the one before."""
        kept = {one.key: one for one in (*self.pairs, *pairs)}
        return replace(self, pairs=tuple(kept[key] for key in sorted(kept)))

    def proposing(self, pairs: Iterable[TermPair]) -> Self:
        """Return the list with more for users to vote over; several may have one written side, and votes decide."""
        listed = {(one.key, one.meant): one for one in (*self.proposed, *pairs)}
        return replace(self, proposed=tuple(listed[key] for key in sorted(listed)))

    def without(self, written: str) -> Self:
        """Return the list without one of its own terms, and without proposed ones of that written side.

        Raises:
            TermsError: it has none such.
        """
        key = " ".join(written.casefold().split())
        kept = tuple(one for one in self.pairs if one.key != key)
        proposed = tuple(one for one in self.proposed if one.key != key)
        if (kept, proposed) == (self.pairs, self.proposed):
            raise TermsError(f"no term is written {written[:80]!r}; list the terms and copy one")
        return replace(self, pairs=kept, proposed=proposed)

    def striking(self, handle: str) -> Self:
        """Return the list with a found term struck."""
        return replace(self, removed=tuple(sorted({*self.removed, handle[:_HANDLE]})))

    def to_document(self) -> dict[str, Any]:
        """Return a JSON-ready copy; ``from_document`` reads it back to an equal list."""
        return {
            "format": FORMAT,
            "use": self.use.value,
            "pairs": [[one.written, one.meant] for one in self.pairs],
            "removed": list(self.removed),
            # So that lists without keep their digest and signature.
            **({"proposed": [[one.written, one.meant] for one in self.proposed]} if self.proposed else {}),
        }

    @classmethod
    def from_document(cls, document: object) -> Self:
        """Read ``to_document``'s form.

        Raises:
            TermsError: it is no list of terms.
        """
        try:
            if not isinstance(document, dict) or document["format"] != FORMAT:
                raise TermsError(f"the format of terms is {FORMAT}; this document has another")
            return cls(
                use=TermUse(document["use"]),
                pairs=tuple(TermPair(written=written, meant=meant) for written, meant in document["pairs"]),
                removed=tuple(str(one)[:_HANDLE] for one in document["removed"]),
                proposed=tuple(
                    TermPair(written=written, meant=meant) for written, meant in document.get("proposed", ())
                ),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise TermsError("the terms cannot be read; they are damaged") from error


@dataclass(frozen=True, kw_only=True)
class SignedTerms:
    """A version as it is kept: for one line, with who vouches for it."""

    terms: TermList
    key_id: str
    signature: str


def signed_bytes(line_ref: str, terms: TermList) -> bytes:
    """Return what is signed: the content together with the line that it is for."""
    return canonical_json({"line_ref": line_ref, "terms": terms.to_document()})
