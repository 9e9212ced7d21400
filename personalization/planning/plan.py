"""A training plan fixes everything the guarantee depends on; performance flags fix what it does not.

The plan is made from public numbers only (policy, public clock, released quantities) before any private read, is
stored with the reservation, and is compared with what Opacus observed after the run: a difference fails the run.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum

from privacy.canonical import digest_of


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
        steps: composed mechanism applications T.
        sample_rate: Poisson probability per user and step q.
        expected_cohort: the public normaliser, ``sample_rate × declared_users``; never derived from data.
        clipping_norm: L2 bound on one user's gradient C.
        noise_multiplier: noise standard deviation ÷ ``clipping_norm``.
        learning_rate: public step size.
        contribution_bound: most examples one user may have in the round.
        max_tokens: truncation length of one example, in tokens (per example, so it couples no users).
        averaging_fraction: the released weights are the mean of the last such fraction of iterates (free).
        shrinkage: factor in (0, 1] applied to the trained delta before release (public, free).
        subspace: where the frozen factors come from.
        damping: above 0, steps are taken in the metric of the model's public curvature with this damping
            (``training.metric``), clipping and noise too; 0 takes Adam's steps in the numbers themselves.
        label_shortlist: in training, the softmax runs over so many tokens, those likeliest on public texts, and the
            label itself (Jean et al., "On using very large target vocabulary", ACL 2015, with a fixed sample); 0 takes
            the whole vocabulary. Pairs and everything that is measured always take the whole. Only with damping.
    """

    family: Family = Family.CORE
    rank: int = 8
    alpha: float = 8.0
    target_modules: tuple[str, ...] = ALL_LINEAR
    top_layers: int = 4
    objective: Objective = Objective.SFT
    steps: int
    sample_rate: float
    expected_cohort: float
    clipping_norm: float
    noise_multiplier: float
    learning_rate: float
    contribution_bound: int
    max_tokens: int = 96
    averaging_fraction: float = 0.5
    shrinkage: float = 1.0
    subspace: Subspace = Subspace.WEIGHTS
    damping: float = 0.0
    label_shortlist: int = 0

    def __post_init__(self) -> None:
        checks = (
            ("rank", self.rank, 1 <= self.rank <= 64, "1 to 64"),
            ("top_layers", self.top_layers, self.top_layers >= 1, "at least 1"),
            ("steps", self.steps, 1 <= self.steps <= 100_000, "1 to 100,000"),
            ("sample_rate", self.sample_rate, 0 < self.sample_rate <= 1, "above 0, at most 1"),
            ("expected_cohort", self.expected_cohort, self.expected_cohort >= 1, "at least 1"),
            ("clipping_norm", self.clipping_norm, 0 < self.clipping_norm < 1e6, "above 0"),
            ("noise_multiplier", self.noise_multiplier, 0 <= self.noise_multiplier <= 1e4, "0 to 10,000"),
            ("contribution_bound", self.contribution_bound, self.contribution_bound >= 1, "at least 1"),
            ("averaging_fraction", self.averaging_fraction, 0 < self.averaging_fraction <= 1, "(0, 1]"),
            ("shrinkage", self.shrinkage, 0 < self.shrinkage <= 1, "(0, 1]"),
            ("damping", self.damping, 0 <= self.damping <= 1e6, "0 to 1,000,000"),
            (
                "label_shortlist",
                self.label_shortlist,
                self.label_shortlist >= 0 and (self.label_shortlist == 0 or self.damping > 0),
                "0, or above it with a damping",
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

    def to_document(self) -> dict[str, object]:
        """Return a JSON-ready copy; ``from_document`` reads it back to an equal plan."""
        return {**asdict(self), "target_modules": list(self.target_modules)}

    @classmethod
    def from_document(cls, document: dict[str, object]) -> TrainingPlan:
        """Read a plan back from ``to_document``'s form; unknown fields are refused."""
        fields = dict(document)
        fields["family"] = Family(str(fields["family"]))
        fields["objective"] = Objective(str(fields["objective"]))
        fields["subspace"] = Subspace(str(fields.get("subspace", Subspace.WEIGHTS)))
        fields["target_modules"] = tuple(fields["target_modules"])  # type: ignore[arg-type]
        return cls(**fields)  # type: ignore[arg-type]

    def digest(self) -> str:
        """Return the ``sha256:`` digest of the canonical JSON of the plan."""
        return digest_of(self.to_document(), ascii_only=True)


@dataclass(frozen=True, kw_only=True)
class PerformanceFlags:
    """What changes speed and memory, never the guarantee and (up to rounding) never the result."""

    device: str = "auto"  # "auto" | "cpu" | "cuda"
    cache_prefix: bool = True
    label_only_logits: bool = True
    tokens_per_microbatch: int = 4096
    threads: int | None = None
    # The output head's products while training in bfloat16, as on a GPU, where the processor has instructions for it.
    half_head: bool = False
