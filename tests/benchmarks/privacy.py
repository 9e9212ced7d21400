"""What the guarantee costs and how far it holds: the influence of one user, an exact step, the receipt, the audit,
the ledger.

    python tests/benchmarks/privacy.py --json PATH [--only influence,step,receipt,audit,ledger] [--pairs 15]
        [--most-users 1000000] [--postgres URL] [--samples 300]

Influence is counted in whole numbers, so it is no estimate: ‖sum with the user − sum without‖₂ ÷ C, for streams of
users that all pull the same way and of users that are all different, cut into other micro-batches when the user is
gone. Beside each stands the float32 path that the lattice replaced, on the same rows; its few lines stand here and
nowhere else. What a float sum does depends on the order in which a machine's BLAS adds.

A step is a whole one: gradients of every drawn user, clipping, sum, noise, measuring, and the inner optimizer. New and
old take turns, and the median of the pairwise ratios is reported; the mechanism alone stands beside it, for
information.

An audit is a release's own: shadows, canaries and bounds at the default depth, beside a round of the quality
benchmark's size (100 users with two messages each, 8 steps, a base of SmolLM2-135M's shape with random weights;
loading it, its public metric and what is measured on public text would make the round longer and are left out).
``noise × 0.7`` is planted where the noise is added.

The ledger's rows are those of ``ledger.py`` that bear on the guarantee: verification of 10,000 releases with manifests
and signed receipts, and, with an administrator's address of a PostgreSQL server, admission beside a short history and
beside 10,000 tenants' long ones (its seeding takes minutes). These are wall times, all others processor times.

Longer than 400 lines, because the old float path and the bounds stand beside what they measure.

Each part is a function that returns rows; further parts are added to ``PARTS``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from personalization.canaries.values import AuditRequest
from personalization.canaries.verdict import facts_of_audit
from personalization.planning.plan import FEED_FORWARD, Family, PerformanceFlags, TrainingPlan, mechanism_of
from personalization.training.engine.batches import Member, PrefixCache
from personalization.training.engine.decoder import FrozenDecoder
from personalization.training.engine.encoding import Encoder, TokenExample, TokenUser
from personalization.training.jobs.job import ExampleKind, TenantJob
from personalization.training.jobs.receipt import SignedReceipt, public_key_of
from personalization.training.mechanism import clipping, optimizer
from personalization.training.mechanism.optimizer import FusedDPOptimizer, TenantAdam, TenantMechanism
from personalization.training.run.audit import audit
from personalization.training.run.fused import FusedRun
from privacy.accounting.composition import best_epsilon, curve_of
from privacy.mechanisms.sampled_gaussian import PoissonSampledGaussian
from privacy.noise import lattice, normal
from privacy.noise.keystream import PURPOSE_GRADIENT
from tests.benchmarks import ledger
from tests.benchmarks.trainer import random_model, random_rows
from tests.fakes.tiny_models import make_users, tiny_model, tiny_tokenizer

AUDIT_DELTA = 1e-5
SIZE = 768  # of the review that this answers
CLIP = 0.1
CHUNK = 4096
KEY = bytes(range(32))


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured number; ``must`` is its bound in words, and ``ok`` None where there is none."""

    name: str
    value: float
    unit: str
    must: str | None = None
    ok: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the command line asked for."""

    pairs: int
    most_users: int
    postgres: str
    samples: int


def plan_of(**changes: object) -> TrainingPlan:
    """Return a plan of the benchmark's size."""
    fields = {
        "family": Family.CORE, "rank": 8, "top_layers": 3, "steps": 10**5, "sample_rate": 1.0,
        "expected_cohort": 1000.0, "clipping_norm": CLIP, "noise_multiplier": 1.0, "learning_rate": 1e-3,
        "contribution_bound": 1,
    }  # fmt: skip
    fields |= changes
    numbers = ("steps", "sample_rate", "clipping_norm", "noise_multiplier", "contribution_bound")
    mechanism = mechanism_of(**{name: fields.pop(name) for name in numbers})  # type: ignore[arg-type]
    return TrainingPlan(mechanism=mechanism, **fields)  # type: ignore[arg-type]


# --- the influence of one user ------------------------------------------------------------------------------


def users_of(kind: str, count: int, *, without: int | None) -> Iterator[torch.Tensor]:
    """Yield the users' gradients in chunks, far longer than the clipping norm; never all of them in memory."""
    for first in range(0, count, CHUNK):
        generator = torch.Generator().manual_seed(first + 1)
        rows = torch.randn(min(CHUNK, count - first), SIZE, generator=generator)
        if kind == "aligned":
            # One direction and equal numbers: the errors of a float sum all pull the same way.
            rows = (1 + rows[:, :1].abs()).expand(-1, SIZE).contiguous()
        if without is not None and first <= without < first + len(rows):
            rows = torch.cat([rows[: without - first], rows[without - first + 1 :]])
        yield rows


def exact_sum(kind: str, count: int, *, without: int | None = None, microbatch: int = 64) -> torch.Tensor:
    """Return the whole sum that the real optimizer makes of the users."""
    parameter = torch.nn.Parameter(torch.zeros(1, SIZE))
    optimizer = FusedDPOptimizer(
        torch.optim.SGD([parameter], lr=1.0), [TenantMechanism.of_plan(plan_of(), KEY)]
    )
    for rows in users_of(kind, count, without=without):
        for part in rows.split(microbatch):
            optimizer.row_tenants = torch.zeros(len(part), dtype=torch.long)
            optimizer.row_users = range(len(part))
            parameter.grad_sample = part
            optimizer.clip_and_accumulate()
        optimizer.mechanisms[0].witness._seen.clear()
    return parameter.summed_grad[0]


def float_sum(kind: str, count: int, *, without: int | None = None, microbatch: int = 64) -> torch.Tensor:
    """Return the sum that the old path made of the users, in float32, its micro-batches moving with who is there."""
    total, left = torch.zeros(SIZE), torch.empty(0, SIZE)
    for rows in users_of(kind, count, without=without):
        waiting = torch.cat([left, rows])
        whole = len(waiting) - len(waiting) % microbatch
        for part in waiting[:whole].split(microbatch):
            old_clip_and_add(total, part, CLIP)
        left = waiting[whole:]
    old_clip_and_add(total, left, CLIP)
    return total


def old_clip_and_add(total: torch.Tensor, rows: torch.Tensor, bound: float) -> None:
    """Clip and add in float32, as the path before the lattice did for one tenant."""
    norms = torch.linalg.vector_norm(rows, dim=1)
    broken = ~torch.isfinite(norms)
    if bool(broken.any()):
        rows.masked_fill_(broken[:, None], 0)
    total.addmv_(rows.t(), (bound / (norms + 1e-6)).clamp_(max=1.0))


def influence(settings: Settings) -> Iterator[Row]:
    """Measure how far one user moves a sum of many."""
    for count in (1, 10**3, 10**5, 10**6):
        if count > settings.most_users:
            continue
        for kind in ("aligned", "all different"):
            leaver = min(count - 1, 3)
            with_user = exact_sum(kind, count)
            without = exact_sum(kind, count, without=leaver, microbatch=37)
            moved = (with_user - without).tolist()
            square = sum(number**2 for number in moved)
            yield Row(
                name=f"influence of one user ÷ C, {count:,} drawn, {kind}",
                value=math.sqrt(square) / lattice.REACH,
                unit="C",
                must="<= 1, in whole numbers",
                ok=square <= lattice.REACH**2,
            )
            old = float_sum(kind, count) - float_sum(kind, count, without=leaver)
            yield Row(
                name=f"the same in float32, as before, {count:,} drawn, {kind}",
                value=float(torch.linalg.vector_norm(old.double())) / CLIP,
                unit="C",
            )


# --- the time of a step -------------------------------------------------------------------------------------


class OldOptimizer(FusedDPOptimizer):
    """The float path: clip and add in float32, noise added and rounded in floats, nothing measured."""

    def clip_and_accumulate(self) -> None:
        """Clip and add as before."""
        rows = self.parameter.grad_sample
        if self.parameter.summed_grad is None:
            self.parameter.summed_grad = torch.zeros_like(self.parameter)
        old_clip_and_add(self.parameter.summed_grad[0], rows, CLIP)
        rows._processed = True

    def add_noise(self) -> None:
        """Add noise as before: scaled to the lattice, added, rounded and scaled back, a tile of numbers at a time."""
        total = self.parameter.summed_grad
        (mechanism,) = self.mechanisms
        deviation = mechanism.plan.noise_multiplier * CLIP
        step = math.ldexp(1.0, math.frexp(deviation)[1] - 1 - 8)
        noise = normal.gaussians(
            [mechanism.stream], PURPOSE_GRADIENT, self.current_step, total.shape[1],
            threads=torch.get_num_threads(),
        )  # fmt: skip
        sums = total.numpy()
        noisy = sums.copy()
        for first in range(0, sums.shape[1], 1 << 16):
            part = slice(first, first + (1 << 16))
            exact = sums[:, part].astype("float64")
            exact *= 1.0 / step
            exact += noise[:, part] * (deviation / step)
            noisy[:, part] = exact.round(out=exact) * step
        self.parameter.grad = torch.from_numpy(noisy)
        total._processed = True

    def measure_noise(self) -> None:
        """Measure nothing."""


class Side:
    """A tenant's run, stepped by one of the two optimizers with a thousand users drawn."""

    def __init__(
        self, optimizer: type[FusedDPOptimizer], plan: TrainingPlan, users: int, width: int = 128
    ) -> None:
        people = make_users(*[((3 + n % 9),) for n in range(users)])
        tenant = TenantJob(job_key="a", plan=plan, users=people, noise_key=KEY)
        decoder = FrozenDecoder(tiny_model("llama", hidden=width), torch.device("cpu"), torch.float32)
        flags = PerformanceFlags(device="cpu")
        self.run = FusedRun(decoder, Encoder(tiny_tokenizer(), 2), [tenant], flags, lambda _p: None)
        (self.members,) = self.run._prefix()
        self.parameter = torch.nn.Parameter(self.run.start.to(torch.float32))
        mechanism = TenantMechanism.of_plan(plan, KEY, [True] * users)
        self.optimizer = optimizer(TenantAdam(self.parameter, [1e-3], lambda: [0]), [mechanism])

    def step(self) -> None:
        """Apply one whole step."""
        self.run._step(self.optimizer, self.parameter, self.members)
        self.optimizer.current_step += 1


class Bare(Side):
    """The mechanism alone, on ready gradients."""

    def step(self) -> None:
        """Apply clipping, noise and scaling to rows that lie ready."""
        size = self.parameter.shape[1]
        if not hasattr(self, "rows"):
            self.rows = torch.randn(len(self.members), size)
        parts = self.rows.split(128)
        for number, part in enumerate(parts):
            self.parameter.grad_sample = part.clone()
            self.optimizer.row_tenants = torch.zeros(len(part), dtype=torch.long)
            self.optimizer.row_users = range(128 * number, 128 * number + len(part))
            self.optimizer.signal_skip_step(number < len(parts) - 1)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        self.optimizer.current_step += 1


def pairs_of(new: Callable[[], None], old: Callable[[], None], pairs: int) -> tuple[float, float, float]:
    """Return medians of new ÷ old, and of each in milliseconds of the process; the two take turns to go first."""
    ratios, each = [], ([], [])
    new(), old()
    for number in range(pairs):
        taken = {}
        for name, step in ((0, new), (1, old)) if number % 2 else ((1, old), (0, new)):
            began = time.process_time()
            step()
            taken[name] = time.process_time() - began
            each[name].append(1e3 * taken[name])
        ratios.append(taken[0] / taken[1])
    return statistics.median(ratios), statistics.median(each[0]), statistics.median(each[1])


THIN = {"family": Family.FULL, "rank": 4, "top_layers": 1}
# Name, width of the model, plan, whether the bound is asked for. Both models are small beside any that is served (576
# and more), so the mechanism's share of a step is larger here; the last is a toy, for information.
STEPS = (
    ("cores, width 128", 128, {}, True),
    ("A and B of one layer, width 128", 128, THIN, True),
    ("A and B of one layer, width 32", 32, THIN, False),
)


def step_time(settings: Settings) -> Iterator[Row]:
    """Compare whole steps, and the mechanism alone, with the float path."""
    for words, width, changes, bound in STEPS:
        plan = plan_of(**changes)
        for side, what, must in ((Side, "time of a step", bound), (Bare, "the mechanism alone", False)):
            new, old = (side(path, plan, 1000, width) for path in (FusedDPOptimizer, OldOptimizer))
            ratio, ours, theirs = pairs_of(new.step, old.step, settings.pairs)
            yield Row(
                name=f"{what} ÷ the float path's, 1,000 users of {new.parameter.shape[1]:,} numbers ({words})",
                value=ratio,
                unit="×",
                must="<= 1.05" if must else None,
                ok=ratio <= 1.05 if must else None,
            )
            yield Row(name=f"{what}, exact ({words})", value=ours, unit="ms")
            yield Row(name=f"{what}, float ({words})", value=theirs, unit="ms")


# --- the receipt --------------------------------------------------------------------------------------------


def receipt_cost(settings: Settings) -> Iterator[Row]:
    """Measure what watching and signing add to a step and to a round."""
    plan = plan_of(steps=60)
    new = Bare(FusedDPOptimizer, plan, 1000)
    blind = Bare(FusedDPOptimizer, plan, 1000)
    blind.optimizer.measure_noise = lambda: None
    for one in blind.optimizer.mechanisms:
        one.witness.row = lambda *_, **__: None
    while new.optimizer.current_step < plan.steps - settings.pairs - 1:
        new.step()
    blind.optimizer.current_step = new.optimizer.current_step
    _, ours, theirs = pairs_of(new.step, blind.step, settings.pairs)
    yield Row(name="watching, a step of 1,000 users", value=ours - theirs, unit="ms")
    began = time.process_time()
    (receipt,) = new.optimizer.receipts()
    signed = SignedReceipt.of(receipt, KEY)
    yield Row(name="concluding and signing, a round", value=1e3 * (time.process_time() - began), unit="ms")
    began = time.process_time()
    signed.verify(public_key_of(KEY))
    yield Row(name="checking a receipt's signature", value=1e3 * (time.process_time() - began), unit="ms")
    size = len(json.dumps(signed.to_document()))
    yield Row(name="a signed receipt", value=size, unit="bytes")


class Round(FusedRun):
    """A whole run of one tenant with the quality benchmark's number of users and tokens."""

    USERS, MESSAGES, LENGTH, LABELS, VOCABULARY = 100, 2, 60, 12, 49_152

    def _prefix(self) -> list[list[Member]]:
        rows = random_rows(self.VOCABULARY, self.USERS * self.MESSAGES, self.LENGTH, self.LABELS)
        users = [
            TokenUser(tuple(TokenExample((row,), ExampleKind.SFT, 1.0) for row in rows[n :: self.USERS]))
            for n in range(self.USERS)
        ]
        self._cache = PrefixCache(self.decoder, self.geometry.first_layer, enabled=True)
        return [self._cache.fill([(0, user) for user in users], self.flags.tokens_per_microbatch)]


def audit_plan(epsilon: float) -> TrainingPlan:
    """Return a plan of the quality benchmark whose training costs ``epsilon`` at ``AUDIT_DELTA``."""
    low, high = 0.1, 1e3
    for _ in range(60):
        middle = math.sqrt(low * high)
        asked = PoissonSampledGaussian(noise_multiplier=middle, sample_rate=1.0, steps=8)
        low, high = (
            (middle, high) if best_epsilon(curve_of(asked), AUDIT_DELTA)[0] > epsilon else (low, middle)
        )
    return plan_of(
        rank=16, alpha=16.0, top_layers=1, target_modules=FEED_FORWARD, steps=8, noise_multiplier=high,
        expected_cohort=100.0, contribution_bound=2,
    )  # fmt: skip


def audit_cost(_settings: Settings) -> Iterator[Row]:
    """Measure what an audit adds to a round, how near its bound comes, and whether noise × 0.7 is seen."""
    flags, encoder = PerformanceFlags(device="cpu"), Encoder(tiny_tokenizer(), 2)
    device = torch.device("cpu")
    decoder = FrozenDecoder(random_model("135m", device, torch.float32), device, torch.float32)
    job = TenantJob(job_key="a", plan=audit_plan(4.0), users=(), noise_key=KEY)
    began = time.process_time()
    Round(decoder, encoder, [job], flags, lambda _: None).train()
    took = time.process_time() - began
    yield Row(name="a round of 100 users, 8 steps", value=took, unit="s")
    for epsilon in (1.0, 2.0, 4.0):
        plan = audit_plan(epsilon)
        began = time.process_time()
        found = facts_of_audit(audit(decoder, encoder, plan, flags, AuditRequest()), plan, AUDIT_DELTA)
        cost = (time.process_time() - began) / took
        claim = found.claimed_epsilon
        yield Row(name=f"audit ÷ round, ε = {epsilon:g}", value=cost, unit="", must="<= 0.10", ok=cost <= 0.1)
        within = found.empirical_epsilon <= claim
        yield Row(
            name=f"ε̂ beside ε = {claim:.3f}", value=found.empirical_epsilon, unit="", must="<= ε", ok=within
        )
        yield Row(name="  of it by one run (Steinke et al.)", value=found.one_run_epsilon, unit="")
        plain = optimizer.add_noise

        def weak(sums, rows, purpose, step, plain=plain):
            noise = plain(sums, rows, purpose, step) - sums
            return sums + (0.7 * noise.to(torch.float64)).round().to(sums.dtype)

        optimizer.add_noise = weak
        try:
            leaky = facts_of_audit(audit(decoder, encoder, plan, flags, AuditRequest()), plan, AUDIT_DELTA)
        finally:
            optimizer.add_noise = plain
        value = leaky.empirical_epsilon
        yield Row(name="  with noise × 0.7", value=value, unit="", must="> ε", ok=value > claim)


def ledger_cost(settings: Settings) -> Iterator[Row]:
    """Measure the verification of a long ledger, and admission where there is a server for it."""
    seconds = ledger.verify_seconds(10_000)
    words = "offline verify of 10,000 releases with manifests and receipts"
    yield Row(name=words, value=seconds, unit="s", must="<= 60", ok=seconds <= ledger.MOST_SECONDS)
    if not settings.postgres:
        return
    server, medians = ledger.Postgres(settings.postgres), []
    for scale in (ledger.SMALLEST, ledger.TARGET):
        figures = ledger.on_fresh_database("postgresql", server, scale, settings.samples)
        words = f"admission, {scale[0]:,} tenants × {scale[1]} releases"
        medians.append(figures["reserve_p50"])
        most = ledger.MOST_MILLISECONDS if scale == ledger.TARGET else None
        p99 = figures["reserve_p99"]
        yield Row(name=f"{words}, p50", value=medians[-1], unit="ms")
        yield Row(
            name=f"{words}, p99", value=p99, unit="ms",
            must=None if most is None else f"<= {most:g}", ok=None if most is None else p99 <= most,
        )  # fmt: skip
    growth = medians[1] / medians[0]
    yield Row(
        name="admission, long ÷ short history, p50", value=growth, unit="×", must="<= 2", ok=growth <= 2
    )


PARTS: dict[str, Callable[[Settings], Iterator[Row]]] = {
    "influence": influence,
    "step": step_time,
    "receipt": receipt_cost,
    "audit": audit_cost,
    "ledger": ledger_cost,
}


def main() -> int:
    """Run the parts that were asked for; exit with 1 where a bound does not hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="where the rows go")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between them")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--most-users", type=int, default=10**6)
    parser.add_argument("--postgres", default="", help="administrator's address of a server, for admission")
    parser.add_argument("--samples", type=int, default=300, help="admissions to time")
    asked = parser.parse_args()
    settings = Settings(
        pairs=asked.pairs, most_users=asked.most_users, postgres=asked.postgres, samples=asked.samples
    )
    torch.set_num_threads(1)
    rows = []
    for part in asked.only.split(","):
        for row in PARTS[part](settings):
            rows.append(row)
            verdict = "" if row.ok is None else ("yes" if row.ok else "NO")
            print(f"{row.name:90} {row.value:14.6g} {row.unit:6} {row.must or '':24} {verdict}", flush=True)
    if asked.json:
        durability = ledger.Postgres(asked.postgres).durability() if asked.postgres else "not run"
        machine = {"processor": platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg()[0]}
        versions = {"python": platform.python_version(), "torch": torch.__version__}
        document = {
            "machine": {**machine, **versions},
            "settings": {
                **asdict(settings),
                "postgres": durability,
                "size": SIZE,
                "block": clipping.BLOCK_ON_CPU,
                "threads": 1,
            },
            "rows": [asdict(row) for row in rows],
        }
        asked.json.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    return int(any(row.ok is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
