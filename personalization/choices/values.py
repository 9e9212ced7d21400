"""What a choice among prompt templates is frozen to, and what it draws; all of it is public but the draw's secret."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Self

from personalization.adapters.signing import signed_by
from personalization.errors import PromptChoiceError
from privacy.canonical import canonical_json, digest_of
from privacy.errors import UnknownMechanismError
from privacy.mechanisms.documents import from_document, to_document
from privacy.mechanisms.exponential_choice import ExponentialChoice
from privacy.mechanisms.private_read import ReadPurpose

if TYPE_CHECKING:
    from collections.abc import Collection

    from personalization.adapters.signing import ManifestSigner

TERMS_FORMAT: Final = "discreet.prompt-choice-terms.v1"
DRAWN_FORMAT: Final = "discreet.prompt-choice.v1"


class ChoiceState(StrEnum):
    """Where a choice stands.

    due ──lease──▶ leased ──▶ done      it was drawn and told
                   ▲  │  ├──▶ declined  nothing was read: the policy, the platform, a template or the budget said no
                   │  │  └──▶ failed    a crash after the start, or its time was over: the charge stays
                   └──┘                 the lease ran out: the next trainer asks the ledger what it may do
    """

    DUE = "due"
    LEASED = "leased"
    DONE = "done"
    DECLINED = "declined"
    FAILED = "failed"

    @property
    def open(self) -> bool:
        """Whether a trainer may still work on it."""
        return self in {ChoiceState.DUE, ChoiceState.LEASED}


class ChoiceOutcome(StrEnum):
    """How a choice ended."""

    CHOSEN = "chosen"
    PURPOSE_NOT_ALLOWED = "purpose_not_allowed"
    ABOVE_CEILING = "above_ceiling"
    TOO_FEW_USERS = "too_few_users"  # are declared for so many candidates at this epsilon
    TEMPLATE_UNUSABLE = "template_unusable"  # a candidate is damaged, gone, or cannot be rendered by now
    BUDGET_EXHAUSTED = "budget_exhausted"
    FORFEITED = "forfeited"


@dataclass(frozen=True, kw_only=True)
class ChoiceTerms:
    """What one choice goes by from its reservation on; all of it public.

    Attributes:
        mechanism: what is charged: one draw, each user with one vote at most.
        candidates: digests of the templates, in the order of the votes.
        since: first instant whose signals are read.
        until: when it was asked for; signals before it are read.
        contribution_bound: most examples of one user.
        max_tokens: truncation length of each.
        base: digest of the weights of the model that is asked.
        percent: share of the subjects that try what is chosen.
        policy_version: the policy that the numbers come from.
        told_at: public instant that is stamped on what comes of it.
        drawn_by: when it forfeits unless it is drawn.
        ends_at: when it forfeits unless it is told.
    """

    mechanism: ExponentialChoice
    candidates: tuple[str, ...]
    since: datetime
    until: datetime
    contribution_bound: int
    max_tokens: int
    base: str
    percent: float
    policy_version: int
    told_at: datetime
    drawn_by: datetime
    ends_at: datetime

    def to_document(self) -> dict[str, Any]:
        """Return a JSON-ready copy; ``from_json`` reads it back to equal terms."""
        document = {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name, value in vars(self).items()
        }
        return {
            **document,
            "format": TERMS_FORMAT,
            "candidates": list(self.candidates),
            "mechanism": to_document(self.mechanism),
        }

    def to_json(self) -> str:
        """Return what the choice's row stores."""
        return json.dumps(self.to_document(), sort_keys=True)

    def digest(self) -> str:
        """Return the ``sha256:`` digest of the canonical JSON of the terms."""
        return digest_of(self.to_document(), ascii_only=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what a choice's row stores.

        Raises:
            PromptChoiceError: it is damaged, or pays for something else.
        """
        try:
            document = json.loads(text)
            mechanism = from_document(document["mechanism"])
            if document.pop("format") != TERMS_FORMAT:
                raise PromptChoiceError(
                    "the choice was reserved by another version; it cannot be gone on with"
                )
            if (
                not isinstance(mechanism, ExponentialChoice)
                or mechanism.purpose is not ReadPurpose.SELECTION
                or mechanism.candidates != len(document["candidates"])
            ):
                raise PromptChoiceError("the choice pays for something else; it cannot be gone on with")
            moments = {
                name: datetime.fromisoformat(document[name])
                for name in ("since", "until", "told_at", "drawn_by", "ends_at")
            }
            candidates = tuple(document["candidates"])
            return cls(**{**document, **moments, "mechanism": mechanism, "candidates": candidates})
        except (ValueError, TypeError, KeyError, AttributeError, UnknownMechanismError) as error:
            raise PromptChoiceError(
                "the terms of the choice are damaged; it cannot be gone on with"
            ) from error


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What one choice drew: one candidate, for one line and one reservation, and nothing else.

    Attributes:
        line_ref: whose templates.
        reservation_id: what paid for it.
        candidates: digests of the templates that were voted on.
        candidate: the digest of the one that was drawn.
    """

    line_ref: str
    reservation_id: str
    candidates: tuple[str, ...]
    candidate: str

    def to_document(self) -> dict[str, Any]:
        """Return the JSON form, which the ledger's commit names by its digest."""
        return {
            "format": DRAWN_FORMAT,
            "line_ref": self.line_ref,
            "reservation_id": self.reservation_id,
            "candidates": list(self.candidates),
            "candidate": self.candidate,
        }

    def digest(self) -> str:
        """Return the ``sha256:`` digest of the JSON form."""
        return digest_of(self.to_document(), ascii_only=True)

    def signed(self, signer: ManifestSigner) -> str:
        """Return what the row stores: the JSON form with who vouches for it."""
        signature = signer.sign_bytes(canonical_json(self.to_document()))
        told = {"drawn": self.to_document(), "key_id": signature.key_id, "signature": signature.signature}
        return json.dumps(told, sort_keys=True)

    @classmethod
    def read(cls, text: str, keys: Collection[bytes] | None) -> Self:
        """Read ``signed``'s form.

        Args:
            text: what the row stores.
            keys: raw public keys that may have signed it; ``None`` leaves the signature to who reads the result.

        Raises:
            PromptChoiceError: it is damaged, or none of the keys signed it.
        """
        try:
            told = json.loads(text)
            document = told["drawn"]
            if document["format"] != DRAWN_FORMAT or document["candidate"] not in document["candidates"]:
                raise PromptChoiceError("what was drawn is of another version or damaged; it is not used")
            if keys is not None and not signed_by(
                keys, canonical_json(document), key=told["key_id"], signature=told["signature"]
            ):
                raise PromptChoiceError(
                    "what was drawn is not signed by a key of this installation; it is not used"
                )
            return cls(
                line_ref=document["line_ref"],
                reservation_id=document["reservation_id"],
                candidates=tuple(document["candidates"]),
                candidate=document["candidate"],
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise PromptChoiceError("what was drawn is damaged; run `discreet budget verify`") from error
