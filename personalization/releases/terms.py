"""What a round is frozen to when its budget is reserved; from then on it reads this and never the newest policy.

The terms hold the plan, and the plan owns the mechanism that is charged and run. Their digest stands in the
reservation, so in the ledger's chain: terms that were changed afterwards are found before anything is read under them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from personalization.errors import RoundTermsError
from personalization.planning.plan import TrainingPlan
from personalization.rounds.slots import Slot
from personalization.styles.edits import StyleEdits
from personalization.suites.verdict import SuiteTerms
from privacy.canonical import digest_of
from privacy.errors import UnknownMechanismError
from privacy.mechanisms.documents import from_document, to_document
from privacy.mechanisms.gaussian import Gaussian
from privacy.mechanisms.partition_selection import PartitionSelection
from privacy.mechanisms.private_read import ReadPurpose
from privacy.mechanisms.sampled_gaussian import PoissonSampledGaussian

if TYPE_CHECKING:
    from privacy.mechanisms.documents import Mechanism

FORMAT: Final = "discreet.round-terms.v1"


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Everything of the policy, the plan and the line that one round goes by.

    Attributes:
        plan: what is trained; ``plan.mechanism`` is what training is charged as.
        beside: the other private reads that the round is charged for: its noisy cohort count, and its vote on style.
        minimum_cohort: fewest users, as counted with noise, that are trained on.
        retention: how old a signal may be.
        policy_version: the policy that the numbers come from.
        slot: the public instants of the round.
        start_sources: released versions whose weights it starts from.
        blend_with: the line's released version that is averaged into the result.
        blend_share: its share, 0 to below 1.
        remembered: releases whose public parts are in that of ``blend_with`` and are averaged into the result's.
        style_edits: what people have struck from the tenant's style card or fixed in it.
        suites: how much of the public suites its result is asked, and what is refused.
        notes: whether its public part rehearses questions with notes.
        votes_on_terms: whether the vote on style is about terms in edits as well.
        glossary: the public pairs (written, meant) that this vote is over, as they were listed when it was reserved.
    """

    plan: TrainingPlan
    beside: tuple[Mechanism, ...]
    minimum_cohort: int
    retention: timedelta
    policy_version: int
    slot: Slot
    start_sources: tuple[str, ...] = ()
    blend_with: str | None = None
    blend_share: float = 0.0
    remembered: int = 0
    style_edits: StyleEdits = field(default_factory=StyleEdits)
    suites: SuiteTerms = field(default_factory=SuiteTerms)
    notes: bool = False
    votes_on_terms: bool = False
    glossary: tuple[tuple[str, str], ...] = ()

    @property
    def mechanism(self) -> PoissonSampledGaussian:
        """The training that is charged.

        Raises:
            RoundTermsError: the plan is one for public data, which is never run on a tenant's users.
        """
        if not isinstance(self.plan.mechanism, PoissonSampledGaussian):
            raise RoundTermsError("the plan adds no noise; it may be run on public data alone")
        return self.plan.mechanism

    @property
    def mechanisms(self) -> tuple[Mechanism, ...]:
        """Every private read of the round, as it is charged."""
        return (*self.beside, self.mechanism)

    @property
    def contribution_bound(self) -> int:
        """Most examples of one user."""
        return self.plan.contribution_bound

    @property
    def cohort_count(self) -> Gaussian:
        """The noisy count of users that is paid for.

        Raises:
            RoundTermsError: none is; then nothing may be counted.
        """
        for mechanism in self.beside:
            if isinstance(mechanism, Gaussian) and mechanism.purpose is ReadPurpose.COHORT_COUNT:
                return mechanism
        raise RoundTermsError("the terms pay for no cohort count; nothing may be counted for them")

    @property
    def declared_users(self) -> int:
        """The policy's public number of users, as the plan has it."""
        return round(self.plan.expected_cohort / self.plan.sample_rate)

    @property
    def style_vote(self) -> PartitionSelection | None:
        """The vote on style that is paid for; None: nobody may look at how answers look."""
        return next((one for one in self.beside if isinstance(one, PartitionSelection)), None)

    def to_document(self) -> dict[str, Any]:
        """Return a JSON-ready copy; ``from_json`` reads it back to equal terms."""
        return {
            "format": FORMAT,
            "plan": self.plan.to_document(),
            "beside": [to_document(one) for one in self.beside],
            "minimum_cohort": self.minimum_cohort,
            "retention_seconds": self.retention // timedelta(seconds=1),
            "policy_version": self.policy_version,
            "slot": {name: moment.isoformat() for name, moment in vars(self.slot).items()},
            "start_sources": list(self.start_sources),
            "blend_with": self.blend_with,
            "blend_share": self.blend_share,
            "style_edits": self.style_edits.to_document(),
            "suites": self.suites.to_document(),
            **({"remembered": self.remembered} if self.remembered else {}),  # as with notes
            **({"notes": True} if self.notes else {}),  # so that terms without keep their digest
            **({"votes_on_terms": True} if self.votes_on_terms else {}),  # so older terms keep their digest
            **({"glossary": [list(pair) for pair in self.glossary]} if self.glossary else {}),  # as above
        }

    def to_json(self) -> str:
        """Return what the round's row stores."""
        return json.dumps(self.to_document(), sort_keys=True)

    def digest(self) -> str:
        """Return the ``sha256:`` digest of the canonical JSON of the terms."""
        return digest_of(self.to_document(), ascii_only=True)

    @classmethod
    def from_json(cls, text: str) -> Terms:
        """Read what a round's row stores.

        Raises:
            RoundTermsError: it is damaged, or the round was reserved before rounds were frozen to terms.
        """
        try:
            document = json.loads(text)
            if document.pop("format", None) != FORMAT:
                raise RoundTermsError(
                    "the round was reserved by an earlier version; it cannot be gone on with"
                )
            retention = timedelta(seconds=document.pop("retention_seconds"))
            return cls(
                **{
                    **document,
                    "plan": TrainingPlan.from_document(document["plan"]),
                    "beside": tuple(from_document(one) for one in document["beside"]),
                    "retention": retention,
                    "slot": Slot(
                        **{name: datetime.fromisoformat(value) for name, value in document["slot"].items()}
                    ),
                    "start_sources": tuple(document["start_sources"]),
                    "remembered": int(document.get("remembered", 0)),
                    "glossary": tuple(
                        (str(written), str(meant)) for written, meant in document.get("glossary", ())
                    ),
                    "style_edits": StyleEdits.from_document(document.get("style_edits", {})),
                    "suites": SuiteTerms.from_document(document["suites"])
                    if "suites" in document
                    else SuiteTerms(),
                }
            )
        except (ValueError, TypeError, KeyError, AttributeError, UnknownMechanismError) as error:
            raise RoundTermsError("the round's terms are damaged; it cannot be gone on with") from error
