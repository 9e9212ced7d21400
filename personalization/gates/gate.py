"""The gate before a release: post-processing of the released weights and public data only, so it costs no ε.

A gate that looked at private losses would be one more private mechanism. This one checks what any server
needs (the portable LoRA profile), that the weights are finite and bounded, that the adapter does something,
and whatever was measured on public text.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from personalization.adapters.files import CONFIG, MAX_SERVER_RANK, WEIGHTS
from personalization.adapters.manifest import EvaluationSummary, GateCheck, LoraShape
from personalization.adapters.parts import private_names
from personalization.adapters.tensors import read_tensors, tensor_digest
from personalization.canaries.verdict import AUDIT_CHECK
from personalization.errors import ArtifactFormatError
from personalization.planning.plan import ALL_LINEAR, Family
from personalization.suites.verdict import SUITE_CHECK

if TYPE_CHECKING:
    from personalization.adapters.activation import Activation
    from personalization.adapters.tensors import StoredTensor
    from personalization.planning.plan import TrainingPlan
    from personalization.suites.values import SuiteScores

_KEY = re.compile(
    r"^base_model\.model\.model\.layers\.(?P<layer>\d+)\.(?:self_attn|mlp)\.(?P<module>[a-z]+_proj)"
    r"\.lora_(?P<factor>[AB])\.weight$"
)


class RejectionReason(StrEnum):
    """Why a candidate is not released."""

    FILES = "files"
    PROFILE = "profile"
    NOT_FINITE = "not_finite"
    UNBOUNDED = "unbounded"
    NO_EFFECT = "no_effect"
    PUBLIC_EVALUATION = "public_evaluation"
    FORGETS_PUBLIC_TEXT = "forgets_public_text"
    START_WITHDRAWN = "start_withdrawn"
    AUDIT = "audit"
    PUBLIC_SUITES = "public_suites"


@dataclass(frozen=True, kw_only=True)
class PublicEvaluation:
    """What public data and the released weights alone say about a candidate (free of charge)."""

    checks: tuple[GateCheck, ...] = ()
    activation: Activation | None = None
    suites: SuiteScores | None = None


@dataclass(frozen=True, kw_only=True)
class GateThresholds:
    """Public limits of the gate."""

    max_delta_norm: float = 1e3  # L2 norm of scaling·B·A over all modules
    min_delta_norm: float = 1e-9
    max_rank: int = MAX_SERVER_RANK
    min_kept: float = 0.25  # of the private change, by the plan's shrinkage, where there is no public part


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """The candidate may be released."""

    lora: LoraShape
    evaluation: EvaluationSummary


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """The candidate is not released; the charge of its training stays."""

    reasons: tuple[RejectionReason, ...]
    checks: tuple[GateCheck, ...] = ()

    def sentence(self) -> str:
        """Say why in one public sentence."""
        said = f"The gate refused the candidate: {', '.join(reason.value for reason in self.reasons)}."
        for check in self.checks:
            if check.name == "public_text" and not check.passed and check.value is not None:
                said += f" The loss on public text would change by {check.value:+.1%}; allowed is up to"
                said += f" {check.threshold:+.1%}."
            if check.name == AUDIT_CHECK and not check.passed and check.value is not None:
                said += f" Canaries in a shadow of the plan show an epsilon of at least {check.value:.4g}; claimed is"
                said += f" {check.threshold:.4g}."
            if check.name.startswith(SUITE_CHECK) and not check.passed:
                said += f" {check.name}: {check.detail}."
        return said


def facts_of(verdict: Accepted | Rejected) -> dict[str, Any]:
    """Return a verdict's figures by the name of the check, for logs; each is public."""
    checks = verdict.evaluation.checks if isinstance(verdict, Accepted) else verdict.checks
    found: dict[str, Any] = {check.name: check.value for check in checks if check.value is not None}
    return {"accepted": isinstance(verdict, Accepted), **found}


def judge(
    directory: Path,
    plan: TrainingPlan,
    public: PublicEvaluation | None = None,
    thresholds: GateThresholds | None = None,
    *,
    combined: bool = False,
) -> Accepted | Rejected:
    """Judge the exported adapter in ``directory``.

    Args:
        directory: holds ``adapter_config.json`` and ``adapter_model.safetensors``, nothing else.
        plan: what was planned; rank, alpha and modules must match.
        public: what was measured on public text.
        thresholds: public limits.
        combined: whether a public part was made, which the adapter must then hold beside the plan's own modules.
    """
    limits = thresholds or GateThresholds()
    public = public or PublicEvaluation()
    names = {path.name for path in directory.iterdir()}
    if names != {CONFIG, WEIGHTS}:
        return Rejected(reasons=(RejectionReason.FILES,))
    try:
        config = json.loads((directory / CONFIG).read_bytes())
        tensors = read_tensors(directory / WEIGHTS)
        private = private_names(directory)
    except (ValueError, ArtifactFormatError):
        return Rejected(reasons=(RejectionReason.FILES,))
    problems = profile_problems(config, tensors, plan, limits, combined=combined)
    problems += _part_problems(tensors, private, plan, combined=combined)
    if problems:
        check = GateCheck(name="profile", passed=False, detail=", ".join(problems))
        return Rejected(reasons=(RejectionReason.PROFILE,), checks=(check,))
    finite = all(bool(np.isfinite(tensor.values).all()) for tensor in tensors)
    norm = delta_norm(tensors, plan.alpha / plan.rank) if finite else math.inf
    shown = min(norm, 1e300)  # canonical JSON has no infinity
    # What a vote leads follows its card; without a public part next to nothing is left of it.
    kept = combined or plan.shrinkage >= limits.min_kept
    checks = (
        GateCheck(name="finite", passed=finite),
        GateCheck(
            name="bounded", passed=norm <= limits.max_delta_norm, value=shown, threshold=limits.max_delta_norm
        ),
        GateCheck(
            name="has_effect",
            passed=kept and norm >= limits.min_delta_norm,
            value=shown,
            threshold=limits.min_delta_norm,
            detail="" if kept else "next to nothing of the change is kept, and there is no public part",
        ),
        *public.checks,
    )
    failed = [check.name for check in checks if not check.passed]
    reasons = tuple(dict.fromkeys(_reason_of(name) for name in failed))
    if reasons:
        return Rejected(reasons=reasons, checks=checks)
    return Accepted(
        lora=_shape(tensors, plan, private, combined=combined),
        evaluation=EvaluationSummary(
            verdict="accepted",
            checks=checks,
            activation=public.activation,
            suites=None if public.suites is None else public.suites.to_document(),
        ),
    )


_REASON_OF = {
    "finite": RejectionReason.NOT_FINITE,
    "bounded": RejectionReason.UNBOUNDED,
    "has_effect": RejectionReason.NO_EFFECT,
    "public_text": RejectionReason.FORGETS_PUBLIC_TEXT,
    AUDIT_CHECK: RejectionReason.AUDIT,
}


def _reason_of(check: str) -> RejectionReason:
    if check.startswith(SUITE_CHECK):
        return RejectionReason.PUBLIC_SUITES
    return _REASON_OF.get(check, RejectionReason.PUBLIC_EVALUATION)


def profile_problems(
    config: dict[str, Any],
    tensors: tuple[StoredTensor, ...],
    plan: TrainingPlan,
    limits: GateThresholds,
    *,
    combined: bool = False,
) -> tuple[str, ...]:
    """Return what keeps an adapter from being a portable LoRA of this plan; empty when nothing does.

    A combined one sits on every linear layer of the base.
    """
    modules = ALL_LINEAR if combined else plan.target_modules
    expected: tuple[tuple[str, bool], ...] = (
        ("peft_type", config.get("peft_type") == "LORA"),
        ("r", config.get("r") == plan.rank <= limits.max_rank),
        ("lora_alpha", config.get("lora_alpha") == plan.alpha),
        ("bias", config.get("bias", "none") == "none"),
        ("use_dora", not config.get("use_dora")),
        ("use_rslora", not config.get("use_rslora")),
        ("modules_to_save", not config.get("modules_to_save")),
        ("rank_pattern", not config.get("rank_pattern")),
        ("alpha_pattern", not config.get("alpha_pattern")),
        ("target_modules", _plain_suffixes(config.get("target_modules"), modules)),
        ("base_model_name_or_path", not Path(str(config.get("base_model_name_or_path") or "")).is_absolute()),
    )
    problems = [name for name, ok in expected if not ok]
    factors: dict[tuple[str, str], dict[str, StoredTensor]] = {}
    for tensor in tensors:
        match = _KEY.match(tensor.name)
        if match is None or match["module"] not in modules or len(tensor.shape) != 2:
            problems.append("tensor_name")
            continue
        factors.setdefault((match["layer"], match["module"]), {})[match["factor"]] = tensor
    if not all(_fits_rank(pair, plan.rank) for pair in factors.values()):
        problems.append("tensor_shape")
    layers = {layer for layer, _ in factors}
    if combined:
        every = {(str(layer), module) for layer in range(len(layers)) for module in modules}
        fits = set(factors) == every
    else:
        fits = len(layers) <= plan.top_layers
    if not fits or not factors:
        problems.append("layers")
    return tuple(dict.fromkeys(problems))


def _part_problems(
    tensors: tuple[StoredTensor, ...], private: frozenset[str] | None, plan: TrainingPlan, *, combined: bool
) -> tuple[str, ...]:
    """Return whether an adapter tells another private part than the plan trained: a later start would read that."""
    if not combined:
        return () if private is None else ("private_part",)
    found = [match for tensor in tensors if (match := _KEY.match(tensor.name)) is not None]
    top = max((int(match["layer"]) for match in found), default=0)
    trained = {
        match.string.rsplit(".lora_", 1)[0]
        for match in found
        if int(match["layer"]) > top - plan.top_layers and match["module"] in plan.target_modules
    }
    return () if private is not None and set(private) == trained else ("private_part",)


def delta_norm(tensors: tuple[StoredTensor, ...], scaling: float) -> float:
    """Return the L2 norm of ``scaling·B·A`` over all modules, from r×r products only."""
    by_name = {tensor.name: tensor.values.astype(np.float64) for tensor in tensors}
    total = 0.0
    for name, a in by_name.items():
        if name.endswith(".lora_A.weight"):
            b = by_name[name.replace(".lora_A.", ".lora_B.")]
            total += float(np.sum((a @ a.T) * (b.T @ b)))  # ‖BA‖² = tr(AAᵀ·BᵀB)
    return scaling * math.sqrt(max(total, 0.0))


def _fits_rank(pair: dict[str, StoredTensor], rank: int) -> bool:
    return set(pair) == {"A", "B"} and pair["A"].shape[0] == rank and pair["B"].shape[1] == rank


def _plain_suffixes(modules: object, expected: tuple[str, ...]) -> bool:
    return (
        isinstance(modules, list)
        and set(modules) == set(expected)
        and all(module in ALL_LINEAR for module in modules)
    )


def trained_count(tensors: tuple[StoredTensor, ...], family: Family, private: frozenset[str] | None) -> int:
    """Return how many numbers a line's training moves: of its private modules, and of those what the family trains.

    A core is stored multiplied out, so the file holds many more.
    """
    trained = 0
    for tensor in tensors:
        module, _, factor = tensor.name.rpartition(".lora_")
        if private is not None and module not in private:
            continue
        size = int(np.prod(tensor.shape))
        if factor == "B.weight":  # (outputs, rank)
            rank = tensor.shape[1]
            trained += rank * min(rank, tensor.shape[0]) if family is Family.CORE else size
        elif family is Family.FULL:
            trained += size
    return trained


def _shape(
    tensors: tuple[StoredTensor, ...], plan: TrainingPlan, private: frozenset[str] | None, *, combined: bool
) -> LoraShape:
    layers = sorted({int(match["layer"]) for tensor in tensors if (match := _KEY.match(tensor.name))})
    return LoraShape(
        family=plan.family.value,
        rank=plan.rank,
        alpha=plan.alpha,
        target_modules=tuple(sorted(ALL_LINEAR if combined else plan.target_modules)),
        layers=tuple(layers),
        trainable_parameters=trained_count(tensors, plan.family, private),
        dtype=tensors[0].dtype,
        tensor_digest=tensor_digest(tensors),
    )
