"""What goes into a training child process and what comes out, as plain values (no torch here).

A job carries rounds of 1 to 1,000 tenants that share one frozen base. Users come in a deterministic order without
any identifier; noise keys are secret 32-byte seeds of a ChaCha20 keystream and are never logged.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from personalization.adapters.activation import Activation
from personalization.canaries.values import AuditRequest, CanaryScores
from personalization.planning.plan import Objective, PerformanceFlags, TrainingPlan
from personalization.styles.card import StyleCard
from personalization.suites.values import SuiteDepth, SuiteScores
from personalization.training.jobs.receipt import SignedReceipt
from personalization.training.jobs.recipes import MamlRecipe, StyleGuide


class ExampleKind(StrEnum):
    """What one signal asks of the model."""

    SFT = "sft"  # raise the likelihood of `completion`
    UNLIKELIHOOD = "unlikelihood"  # lower the likelihood of `completion` (it was rejected)
    PREFERENCE = "preference"  # `completion` (edited) is preferred to `shown`


def learns_from(objective: Objective, kind: ExampleKind) -> bool:
    """Say whether a plan with this objective makes anything of an example of this kind."""
    return kind is not ExampleKind.UNLIKELIHOOD or objective is Objective.SFT_UNLIKELIHOOD


@dataclass(frozen=True, kw_only=True)
class Example:
    """One signal as training sees it."""

    prompt: str
    completion: str
    kind: ExampleKind = ExampleKind.SFT
    shown: str | None = None
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class UserExamples:
    """All examples of one user in the round; at most ``plan.contribution_bound`` of them."""

    examples: tuple[Example, ...]


@dataclass(frozen=True, kw_only=True)
class TenantJob:
    """One tenant's share of a job; ``job_key`` is opaque to training (the reservation id)."""

    job_key: str
    plan: TrainingPlan
    users: tuple[UserExamples, ...] = field(repr=False)
    noise_key: bytes = field(repr=False)  # 32 secret bytes; the same key gives the same draws
    # 32 secret bytes that sign what was measured; None asks for no receipt
    receipt_key: bytes | None = field(default=None, repr=False)
    start_adapter: Path | None = None  # a released portable adapter to start from (same family line)
    blend_with: Path | None = None  # the line's released adapter that is averaged into the result (free)
    blend_share: float = 0.0  # its share, 0 to below 1
    card: StyleCard | None = None  # what the round's vote on style told; None makes no public part
    suites: SuiteDepth = SuiteDepth.OFF  # how much of the gate's public suites the result is asked
    notes: bool = False  # whether the public part rehearses made-up questions with notes before them
    # Of the public part of ``blend_with``, where it goes on in the result's.
    remembers: PublicPartFacts | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """One fused job: every tenant's rows share each matmul of the frozen base."""

    base_model: str  # a directory with config, tokenizer and safetensors
    tenants: tuple[TenantJob, ...]
    output: Path  # one sub-directory per job_key receives the portable PEFT adapter
    flags: PerformanceFlags = field(default_factory=PerformanceFlags)
    audit: AuditRequest | None = None  # of each tenant's mechanism, in a shadow; None leaves it out


@dataclass(frozen=True, kw_only=True)
class PublicJob:
    """One adapter from public data alone: nothing private goes in, so it costs nothing and may be run at any time.

    Attributes:
        base_model: a directory with config, tokenizer and safetensors.
        plan: fixes the adapter's shape; its noise is not used.
        output: the sub-directory ``PUBLIC_KEY`` receives the portable adapter.
        work: a style guide gives a synthetic warm start, a recipe the first-order MAML start, None the zero adapter.
        flags: device and threads.
        suites: how much of the gate's public suites the result is asked.
    """

    base_model: str
    plan: TrainingPlan
    output: Path
    work: StyleGuide | MamlRecipe | None = None
    flags: PerformanceFlags = field(default_factory=PerformanceFlags)
    suites: SuiteDepth = SuiteDepth.OFF


PUBLIC_KEY = "public"


@dataclass(frozen=True, kw_only=True)
class SuiteJob:
    """Ask released adapters the public suites again: nothing private is read, nothing is trained.

    Attributes:
        base_model: a directory with config, tokenizer and safetensors.
        adapters: portable adapters of the base, by name; each is one result.
        depth: how much is asked.
        flags: device and threads.
    """

    base_model: str
    adapters: dict[str, Path]
    depth: SuiteDepth
    flags: PerformanceFlags = field(default_factory=PerformanceFlags)


@dataclass(frozen=True, kw_only=True)
class Ballot:
    """One user's own examples, once under each candidate template, in the order of the candidates."""

    candidates: tuple[UserExamples, ...] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class VoteJob:
    """Ask the base under which candidate template each user's own answers are likeliest; nothing is trained.

    Attributes:
        base_model: a directory with config, tokenizer and safetensors.
        ballots: one of each user.
        max_tokens: truncation length of each example.
        flags: device and threads.
    """

    base_model: str
    ballots: tuple[Ballot, ...] = field(repr=False)
    max_tokens: int
    flags: PerformanceFlags = field(default_factory=PerformanceFlags)


@dataclass(frozen=True, kw_only=True)
class Votes:
    """The place of the candidate that each user votes for, in the order of the ballots; ``None`` votes for none.

    They are private: a charged mechanism makes something of them, and nothing else may.
    """

    of_users: tuple[int | None, ...] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class PublicLosses:
    """Mean loss on each public text (nats per token), of the base and with the adapter that is released."""

    base: tuple[float, ...]
    adapted: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class PublicPartFacts:
    """What is known of a public part; public numbers all, and the mark that a charged step has scaled it.

    Attributes:
        pairs: synthetic pairs that were trained on; none of a release that made nothing of its own and kept the line's.
        rehearsed: public texts among them.
        steps: of training that were kept.
        loss_before: mean loss per token on held-out synthetic pairs of the card, of the base.
        loss_after: the same with the part as it was learned, before it was scaled and others were averaged in.
        strength: share of what was learned that is released: less than 1 where public text would have lost too much.
        noted: made-up questions with notes that were rehearsed beside the pairs; where a policy asks for them.
        remembered: earlier releases whose public parts are averaged in; where a policy asks for it.
        scaled: modules of it whose strength one of the charged steps was spent on.
    """

    pairs: int
    rehearsed: int
    steps: int
    loss_before: float
    loss_after: float
    strength: float = 1.0
    noted: int = 0
    remembered: int = 0
    scaled: int = 0

    def to_document(self) -> dict[str, Any]:
        """Return a JSON-ready copy; without notes, memory or scales it is what it was before there were any."""
        document = asdict(self)
        for name in ("noted", "remembered", "scaled"):
            if not document[name]:
                del document[name]
        return document


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Live progress of a job. It holds nothing computed from private values: no loss, no norm, no count of tokens."""

    stage: str  # "load" | "style" | "prefix" | "train" | "export"
    done: int
    total: int
    memory_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class TenantResult:
    """What one tenant's run released, and what was observed of its mechanism."""

    job_key: str
    adapter: Path  # directory: adapter_config.json + adapter_model.safetensors
    steps: int
    sample_rate: float
    noise_multiplier: float
    delta_norm: float  # L2 norm of the released change: post-processing of the released adapter
    trainable_parameters: int
    public_losses: PublicLosses | None = None  # free: public text and released weights
    activation: Activation | None = None  # what shows that a server applies it; free, as the losses
    noise_norm: float | None = None  # L2 norm of what the same plan releases for nobody: noise alone, free
    receipt: SignedReceipt | None = None  # None where no key came with the job, or nothing was charged
    audit: CanaryScores | None = (
        None  # of canaries in a shadow of the plan: public numbers and fresh noise, free
    )
    public_part: PublicPartFacts | None = (
        None  # of the adapter, made of the card and scaled by a charged step; None where there is none
    )
    suites: SuiteScores | None = None  # of the gate's public suites; free: public items and released weights
