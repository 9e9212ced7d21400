"""A training plan fixes everything the guarantee depends on; performance flags fix what it does not.

The plan is made from public numbers only (policy, public clock, released quantities) before any private read. It owns
the mechanism that is charged: steps, rate, noise, clipping norm and contribution bound stand in that one value, which
the reservation, the run and the manifest share.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any, ClassVar, Final

from privacy.canonical import digest_of
from privacy.errors import UnknownMechanismError
from privacy.mechanisms.private_read import checked, checked_count, read_document
from privacy.mechanisms.sampled_gaussian import PoissonSampledGaussian


class Family(StrEnum):
    """Which part of a low-rank adapter is trained; all three export as one portable PEFT LoRA."""

    CORE = "core"  # A and B frozen, from the base weights' SVD; an r×r core is trained
    B_ONLY = "b_only"  # A frozen and shared; B is trained
    FULL = "full"  # A and B are trained

    @property
    def averageable(self) -> bool:
        """Whether adapters share the factor ``A``, so that the mean of their ``B`` is the mean of what they do."""
        return self is not Family.FULL


class Subspace(StrEnum):
    """Where the frozen factors come from; public numbers alone, so the choice costs nothing."""

    WEIGHTS = "weights"  # top singular directions of the base weights
    # where public interactions in many house styles change the loss most
    PUBLIC_GRADIENTS = "public_gradients"


class Objective(StrEnum):
    """Losses that are strictly per user; any other is refused by name."""

    SFT = "sft"
    SFT_UNLIKELIHOOD = "sft+unlikelihood"
    DPO_SIGMOID = "dpo-sigmoid"


@dataclass(frozen=True, kw_only=True)
class PublicSteps:
    """The numbers of a run on public data: nobody is protected, so there is no noise and nothing can be charged for it.

    Attributes:
        steps: passes.
        sample_rate: probability with which a public text takes part in a step.
        clipping_norm: L2 bound on one public user's gradient.
        contribution_bound: most examples that are read of one public user.
    """

    kind: ClassVar[str] = "public_steps"
    noise_multiplier: ClassVar[float] = 0.0

    steps: int
    sample_rate: float = 1.0
    clipping_norm: float
    contribution_bound: int

    def __post_init__(self) -> None:
        checked_count("steps", self.steps, 1_000_000)
        checked("sample_rate", self.sample_rate, 1e-7, 1.0)
        checked("clipping_norm", self.clipping_norm, 1e-9, 1e9)
        checked_count("contribution_bound", self.contribution_bound, 1_000_000_000)

    def to_document(self) -> dict[str, object]:
        """Return a JSON-ready copy."""
        return {"type": self.kind, **{one.name: getattr(self, one.name) for one in fields(self)}}


Mechanism = PoissonSampledGaussian | PublicSteps
_NUMBERS: Final = ("steps", "sample_rate", "noise_multiplier", "clipping_norm", "contribution_bound")


def mechanism_of(
    *,
    steps: int,
    sample_rate: float,
    noise_multiplier: float,
    clipping_norm: float,
    contribution_bound: int,
) -> Mechanism:
    """Return the mechanism of these numbers; with a noise multiplier of exactly 0, that of public data."""
    if noise_multiplier == 0:
        return PublicSteps(
            steps=steps,
            sample_rate=sample_rate,
            clipping_norm=clipping_norm,
            contribution_bound=contribution_bound,
        )
    return PoissonSampledGaussian(
        steps=steps,
        sample_rate=sample_rate,
        noise_multiplier=noise_multiplier,
        clipping_norm=clipping_norm,
        contribution_bound=contribution_bound,
    )


ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """All that fixes the guarantee of one release, and the shape of the adapter it trains.

    Attributes:
        family: which part of the adapter is trained.
        rank: LoRA rank r; constant along an adapter line.
        alpha: LoRA alpha; the scaling is ``alpha / rank``.
        target_modules: suffix names, a subset of {q,k,v,o,gate,up,down}_proj.
        top_layers: number of adapted decoder layers, counted from the output.
        objective: the per-user loss.
        mechanism: the value that is charged and run: steps T, sample rate q, noise multiplier σ, clipping norm C and
            contribution bound; on public data ``PublicSteps``, which no ledger takes.
        expected_cohort: the public normaliser, ``sample_rate × declared_users``; never derived from data.
        learning_rate: public step size.
        max_tokens: truncation length of one example, in tokens (per example, so it couples no users).
        averaging_fraction: the released weights are the mean of the last such fraction of iterates (free).
        shrinkage: factor in (0, 1] applied to the trained delta before release (public, free).
        subspace: where the frozen factors come from.
        damping: above 0, steps are taken in the metric of the model's public curvature with this damping
            (``training.metric``), clipping and noise too; 0 takes Adam's steps in the numbers themselves.
        label_shortlist: in training, the softmax runs over so many tokens, those likeliest on public texts, and the
            label itself (Jean et al., "On using very large target vocabulary", ACL 2015, with a fixed sample); 0 takes
            the whole vocabulary. Pairs and everything that is measured always take the whole. Only with damping.
        scaled_layers: where the tenant has a public part, the first of the steps is spent on how strongly it acts in
            so many layers, counted from the output, and trains nothing else; 0 leaves it as it was made. Only with
            damping and more than one step; of more modules than the private part has numbers, the upper ones.
    """

    family: Family = Family.CORE
    rank: int = 8
    alpha: float = 8.0
    target_modules: tuple[str, ...] = ALL_LINEAR
    top_layers: int = 4
    objective: Objective = Objective.SFT
    mechanism: Mechanism
    expected_cohort: float
    learning_rate: float
    max_tokens: int = 96
    averaging_fraction: float = 0.5
    shrinkage: float = 1.0
    subspace: Subspace = Subspace.WEIGHTS
    damping: float = 0.0
    label_shortlist: int = 0
    scaled_layers: int = 0

    def __post_init__(self) -> None:
        if self.mechanism.clipping_norm is None or self.mechanism.contribution_bound is None:
            raise ValueError(
                "the plan's mechanism names no clipping norm or no contribution bound; give both"
            )
        checks = (
            ("rank", self.rank, 1 <= self.rank <= 64, "1 to 64"),
            ("top_layers", self.top_layers, self.top_layers >= 1, "at least 1"),
            ("steps", self.steps, 1 <= self.steps <= 100_000, "1 to 100,000"),
            ("expected_cohort", self.expected_cohort, self.expected_cohort >= 1, "at least 1"),
            ("averaging_fraction", self.averaging_fraction, 0 < self.averaging_fraction <= 1, "(0, 1]"),
            ("shrinkage", self.shrinkage, 0 < self.shrinkage <= 1, "(0, 1]"),
            ("damping", self.damping, 0 <= self.damping <= 1e6, "0 to 1,000,000"),
            (
                "label_shortlist",
                self.label_shortlist,
                self.label_shortlist >= 0 and (self.label_shortlist == 0 or self.damping > 0),
                "0, or above it with a damping",
            ),
            (
                "scaled_layers",
                self.scaled_layers,
                self.scaled_layers == 0 or (self.scaled_layers > 0 and self.damping > 0 and self.steps > 1),
                "0, or above it with a damping and more than one step",
            ),
        )
        for name, value, ok, allowed in checks:
            if not ok:
                raise ValueError(f"{name} is {value}; allowed is {allowed}")
        unknown = [name for name in self.target_modules if name not in ALL_LINEAR]
        if unknown or not self.target_modules:
            raise ValueError(f"target_modules is {self.target_modules}; allowed are {', '.join(ALL_LINEAR)}")
        if self.damping > 0 and not self._labels_stand_alone():
            raise ValueError(
                "damping is above 0; allowed only for the family core on the feed-forward layers "
                f"({', '.join(FEED_FORWARD)}) of the last block"
            )

    def _labels_stand_alone(self) -> bool:
        """Say whether what is trained acts on each label token by itself, as the public curvature assumes."""
        return (
            self.family is Family.CORE
            and self.top_layers == 1
            and set(self.target_modules) <= set(FEED_FORWARD)
        )

    @property
    def steps(self) -> int:
        """Composed applications of the mechanism, T."""
        return self.mechanism.steps

    @property
    def sample_rate(self) -> float:
        """Poisson probability per user and step, q."""
        return self.mechanism.sample_rate

    @property
    def noise_multiplier(self) -> float:
        """Noise standard deviation ÷ clipping norm; 0 on public data."""
        return self.mechanism.noise_multiplier

    @property
    def clipping_norm(self) -> float:
        """L2 bound on one user's gradient, C."""
        assert self.mechanism.clipping_norm is not None  # checked on construction
        return self.mechanism.clipping_norm

    @property
    def contribution_bound(self) -> int:
        """Most examples one user may have in the round."""
        assert self.mechanism.contribution_bound is not None  # checked on construction
        return self.mechanism.contribution_bound

    def with_mechanism(self, **changes: Any) -> TrainingPlan:
        """Return the plan with other numbers in its mechanism; a noise multiplier of 0 makes it one for public data."""
        numbers = {name: getattr(self.mechanism, name) for name in _NUMBERS}
        return replace(self, mechanism=mechanism_of(**{**numbers, **changes}))

    def to_document(self) -> dict[str, object]:
        """Return a JSON-ready copy; ``from_document`` reads it back to an equal plan."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        if not self.scaled_layers:
            del values["scaled_layers"]  # so that plans without keep their digest
        return {
            **values,
            "target_modules": list(self.target_modules),
            "mechanism": self.mechanism.to_document(),
        }

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> TrainingPlan:
        """Read a plan back from ``to_document``'s form; unknown fields are refused.

        A plan that was stored before it owned its mechanism has the mechanism's numbers among its own.

        Raises:
            ValueError: a value is not allowed, or the mechanism is none that a plan can have.
        """
        values = dict(document)
        if "mechanism" in values:
            values["mechanism"] = _mechanism_in(values["mechanism"])
        else:
            values["mechanism"] = mechanism_of(**{name: values.pop(name) for name in _NUMBERS})
        values["family"] = Family(str(values["family"]))
        values["objective"] = Objective(str(values["objective"]))
        values["subspace"] = Subspace(str(values.get("subspace", Subspace.WEIGHTS)))
        values["target_modules"] = tuple(values["target_modules"])
        return cls(**values)

    def digest(self) -> str:
        """Return the ``sha256:`` digest of the canonical JSON of the plan."""
        return digest_of(self.to_document(), ascii_only=True)


def _mechanism_in(document: dict[str, Any]) -> Mechanism:
    if document.get("type") == PublicSteps.kind:
        return PublicSteps(**{name: value for name, value in document.items() if name != "type"})
    try:
        return read_document(document, {PoissonSampledGaussian.kind: PoissonSampledGaussian})
    except UnknownMechanismError as error:
        raise ValueError(f"the plan's mechanism cannot be read: {error}") from error


@dataclass(frozen=True, kw_only=True)
class PerformanceFlags:
    """What changes speed and memory, never the guarantee and (up to rounding) never the result."""

    device: str = "auto"  # "auto" | "cpu" | "cuda"
    cache_prefix: bool = True
    label_only_logits: bool = True
    tokens_per_microbatch: int = 4096
    threads: int | None = None
    # Products with frozen weights while training in bfloat16, as on a GPU, where the processor has instructions for it:
    # those of the output head, and on public texts those below the adapted layers. Users' rows pass those in float32:
    # a product's last digits may owe something to the rest of its batch (``privacy.noise.normal``).
    half_products: bool = False
