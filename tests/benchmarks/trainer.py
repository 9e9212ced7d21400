"""Trainer benchmark: plain peft, Opacus hooks, Opacus ghost and ours on the same rows and steps.

    python tests/benchmarks/trainer.py --json out.json                      # the CPU table
    python tests/benchmarks/trainer.py --device cuda --suite h200 --json …  # one GPU, under nine minutes
    python tests/benchmarks/trainer.py --suite smoke                        # both at tiny sizes, seconds

It needs torch, transformers, peft, opacus, cryptography and this repository; weights are random and of the right
shapes, so nothing is downloaded. Ratios come from one run: the two sides take turns, and the median of the pairwise
ratios is reported. CPU time of the process is reported beside wall time, since other programs may share the cores.
Shapes, dtypes and row contents are the same on both sides; the plain side trains the same LoRA (A and B, rank 8) with
AdamW and no privacy.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import opacus
import peft
import torch
from opacus import GradSampleModule
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

from personalization.planning.plan import Family, PerformanceFlags, TrainingPlan, mechanism_of
from personalization.training.engine.batches import PrefixCache
from personalization.training.engine.decoder import FrozenDecoder
from personalization.training.engine.encoding import TokenExample, TokenRow, TokenUser
from personalization.training.engine.memory import keep_freed_memory
from personalization.training.jobs.job import ExampleKind, TenantJob
from personalization.training.mechanism.optimizer import FusedDPOptimizer, TenantAdam, TenantMechanism
from personalization.training.run.fused import FusedRun

warnings.filterwarnings("ignore", message="Full backward hook is firing")
RANK = 8
MICROBATCH = PerformanceFlags().tokens_per_microbatch
SIDES = ("plain", "hooks", "ghost", "ours")
STEPS = 20  # of one adapter, where adapters per hour are reported
SUFFIXES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SHAPES = {
    "135m": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "head_dim": 64,
        "vocab_size": 49152,
    },
    "1b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "vocab_size": 128256,
    },
    "8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 128256,
    },
    # The reference's dispatch-bound case: thirty thin layers, so that time is Python and dispatcher.
    "thin": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 30,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": 256,
    },
    "tiny": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "vocab_size": 256,
    },
}


def random_model(shape: str, device: torch.device, dtype: torch.dtype) -> LlamaForCausalLM:
    """Build a model with random weights straight on the device."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = LlamaForCausalLM(LlamaConfig(**SHAPES[shape], tie_word_embeddings=True))
    finally:
        torch.set_default_dtype(before)
    return model.eval().requires_grad_(False)


def random_rows(vocabulary: int, rows: int, length: int, labels: int, seed: int = 0) -> list[TokenRow]:
    """Rows of ``length`` read tokens whose last ``labels`` positions predict."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, vocabulary, (rows, length + 1), generator=generator).tolist()
    return [TokenRow(tuple(row), length + 1 - labels) for row in tokens]


class Ours:
    """Our fused step for several tenants, one user per row."""

    def __init__(
        self,
        model,
        shape,
        tenants,
        rows_each,
        length,
        labels,
        *,
        top=None,
        cached=False,
        private=True,
        microbatch=MICROBATCH,
    ):
        self.device = model.get_input_embeddings().weight.device
        decoder = FrozenDecoder(model, self.device, model.dtype)
        plan = TrainingPlan(
            family=Family.FULL,
            rank=RANK,
            alpha=float(RANK),
            top_layers=top or SHAPES[shape]["num_hidden_layers"],
            mechanism=mechanism_of(
                steps=10**5,
                sample_rate=1.0,
                clipping_norm=0.1,
                noise_multiplier=1.0 if private else 0.0,
                contribution_bound=1,
            ),
            expected_cohort=float(rows_each),
            learning_rate=1e-3,
        )
        jobs = [
            TenantJob(job_key=str(n), plan=plan, users=(), noise_key=bytes([n % 256] * 32))
            for n in range(tenants)
        ]
        # Without the levers both sides read, run and predict at every position of a row.
        flags = PerformanceFlags(
            cache_prefix=cached, label_only_logits=cached, tokens_per_microbatch=microbatch
        )
        self.run = FusedRun(decoder, None, jobs, flags, lambda _p: None)
        self.parameter = torch.nn.Parameter(self.run.start.to(self.device, torch.float32))
        mechanisms = [TenantMechanism.of_plan(plan, job.noise_key) for job in jobs]
        inner = TenantAdam(self.parameter, [1e-3] * tenants, lambda: list(range(tenants)))
        self.optimizer = FusedDPOptimizer(inner, mechanisms)
        rows = random_rows(SHAPES[shape]["vocab_size"], tenants * rows_each, length, labels)
        users = [TokenUser((TokenExample((row,), ExampleKind.SFT, 1.0),)) for row in rows]
        self.run._cache = PrefixCache(decoder, self.run.geometry.first_layer, enabled=cached)
        placed = [(n // rows_each, user) for n, user in enumerate(users)]
        self.members = self.run._cache.fill(placed, 8192)

    def step(self):
        self.run._step(self.optimizer, self.parameter, self.members)
        self.optimizer.current_step += 1


class Peer:
    """Plain peft, or Opacus in hooks or ghost mode, one tenant at a time on one adapter and one optimizer."""

    def __init__(self, model, shape, turns, rows_each, length, labels, *, mode, top=None):
        self.device = model.get_input_embeddings().weight.device
        layers = SHAPES[shape]["num_hidden_layers"]
        config = peft.LoraConfig(
            r=RANK,
            lora_alpha=RANK,
            target_modules=SUFFIXES,
            lora_dropout=0.0,
            bias="none",
            task_type="CAUSAL_LM",
            layers_to_transform=list(range(layers - (top or layers), layers)),
        )
        self.model = peft.get_peft_model(model, config, autocast_adapter_dtype=False)
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        inner = torch.optim.AdamW(self.trained, lr=1e-3)
        self.mode = mode
        common = {"noise_multiplier": 1.0, "max_grad_norm": 0.1, "expected_batch_size": rows_each}
        if mode == "hooks":
            model.get_input_embeddings().register_forward_hook(lambda _m, _i, out: out.requires_grad_())
            self.runner = GradSampleModule(self.model, loss_reduction="mean", strict=False)
            self.optimizer = DPOptimizer(inner, **common)
        elif mode == "ghost":
            model.get_input_embeddings().register_forward_hook(lambda _m, _i, out: out.requires_grad_())
            self.runner = GradSampleModuleFastGradientClipping(
                self.model, loss_reduction="mean", max_grad_norm=0.1, use_ghost_clipping=True, strict=False
            )
            self.optimizer = DPOptimizerFastGradientClipping(inner, **common)
        else:
            self.runner, self.optimizer = self.model, inner
        rows = random_rows(SHAPES[shape]["vocab_size"], turns * rows_each, length, labels)
        self.batches = []
        for turn in range(turns):
            ids = torch.tensor([row.tokens for row in rows[turn * rows_each : (turn + 1) * rows_each]])
            wanted = ids.clone()
            wanted[:, : rows[0].first_label] = -100
            positions = torch.arange(length).expand(rows_each, -1).contiguous()
            self.batches.append(tuple(t.to(self.device) for t in (ids[:, :-1], wanted, positions)))

    def step(self):
        for ids, wanted, positions in self.batches:
            self.optimizer.zero_grad(set_to_none=True)
            if self.mode == "plain":
                # The fused loss path of transformers; labels are shifted inside.
                full = torch.cat([ids, wanted[:, -1:].clamp_min(0)], 1)
                self.runner(input_ids=full, labels=wanted).loss.backward()
            else:
                losses = self._row_losses(ids, wanted, positions)
                if self.mode == "ghost":
                    self._ghost_backward(losses)
                else:
                    losses.mean().backward()
            self.optimizer.step()

    def _row_losses(self, ids, wanted, positions):
        logits = self.runner(ids, position_ids=positions).logits
        nll = torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), wanted[:, 1:].flatten(), ignore_index=-100, reduction="none"
        ).view(len(ids), -1)
        return nll.sum(1) / (wanted[:, 1:] != -100).sum(1)

    def _ghost_backward(self, losses):
        """Two passes, as Opacus' DPTensorFastGradientClipping runs them."""
        self.optimizer.zero_grad()
        losses.mean().backward(retain_graph=True)
        self.optimizer.zero_grad()
        coefficients = self.runner.get_clipping_coef()
        self.runner.disable_hooks()
        (coefficients * losses).sum().backward()
        self.runner.enable_hooks()


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass
class Pair:
    """Interleaved timings of two sides, in seconds."""

    first_wall: list[float]
    second_wall: list[float]
    first_cpu: list[float]
    second_cpu: list[float]

    def ratios(self, clock: str) -> list[float]:
        """Ratios of the pairs, ascending; ``clock`` is "wall" or "cpu"."""
        first, second = getattr(self, f"first_{clock}"), getattr(self, f"second_{clock}")
        return sorted(a / b for a, b in zip(first, second, strict=True))


class Report:
    """The rows of a run: one per figure."""

    def __init__(self, device: torch.device, settings: dict[str, object]) -> None:
        self.machine = machine(device)
        self.settings = settings
        self.rows: list[dict[str, object]] = []

    def add(self, name: str, value: float, unit: str, *, at_most=None, at_least=None) -> None:
        """Record one figure; with a target it is ``ok`` or not, without one ``ok`` is null."""
        must, ok = None, None
        if at_most is not None:
            must, ok = f"<= {at_most}", value <= at_most
        elif at_least is not None:
            must, ok = f">= {at_least}", value >= at_least
        self.rows.append({"name": name, "value": value, "unit": unit, "must": must, "ok": ok})
        target = "" if must is None else f" (must be {must}: {'met' if ok else 'MISSED'})"
        print(f"{name}: {value:,.4g} {unit}{target}", flush=True)

    def document(self) -> dict[str, object]:
        return {"machine": self.machine, "settings": self.settings, "rows": self.rows}


def interleave(ours, peer, repeats: int, device: torch.device) -> Pair:
    pair = Pair([], [], [], [])
    ours.step()
    peer.step()
    for _ in range(repeats):
        for side, wall, cpu in (
            (ours, pair.first_wall, pair.first_cpu),
            (peer, pair.second_wall, pair.second_cpu),
        ):
            synchronize(device)
            began, began_cpu = time.perf_counter(), time.process_time()
            side.step()
            synchronize(device)
            wall.append(time.perf_counter() - began)
            cpu.append(time.process_time() - began_cpu)
    return pair


class OpCounter(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def dispatched_ops(side) -> int:
    side.step()
    with OpCounter() as counter:
        side.step()
    return counter.count


def table(args, device, dtype, report: Report) -> None:
    """The rows of the CPU table."""
    big, batch, length, thin = ("tiny", 8, 16, "tiny") if args.tiny else ("135m", 8, 64, "thin")
    top = 2 if args.tiny else 4
    wanted = args.only.split(",") if args.only else None

    def on(name):
        return wanted is None or name in wanted

    def fresh(shape):
        return random_model(shape, device, dtype)

    def compare(name, must, ours, peer, repeats=args.repeats):
        pair = interleave(ours, peer, repeats, device)
        ratios = pair.ratios("wall")
        report.add(name, statistics.median(ratios), "ratio of wall time", at_most=must)
        report.add(f"{name}: lowest pair", ratios[0], "ratio of wall time")
        report.add(f"{name}: highest pair", ratios[-1], "ratio of wall time")
        processor = statistics.median(pair.ratios("cpu"))
        report.add(f"{name}: processor time", processor, "ratio of processor time")
        report.add(f"{name}: first side", statistics.median(pair.first_wall), "s per step")
        report.add(f"{name}: second side", statistics.median(pair.second_wall), "s per step")

    if on("plain"):
        compare(
            "ours, 1 tenant, private / plain peft, not private, no levers",
            1.00,
            Ours(fresh(big), big, 1, batch, length, length),
            Peer(fresh(big), big, 1, batch, length, length, mode="plain"),
        )
    if on("ghost"):
        compare(
            "ours, 1 tenant / Opacus ghost",
            None,
            Ours(fresh(big), big, 1, batch, length, length),
            Peer(fresh(big), big, 1, batch, length, length, mode="ghost"),
        )
    if on("private"):
        compare(
            "ours private / ours without noise",
            None,
            Ours(fresh(big), big, 1, batch, length, length),
            Ours(fresh(big), big, 1, batch, length, length, private=False),
        )
    if on("fused"):
        compare(
            "ours, 4 tenants fused / 4 tenants sequential Opacus hooks",
            0.65,
            Ours(fresh(big), big, 4, batch // 4, length, length),
            Peer(fresh(big), big, 4, batch // 4, length, length, mode="hooks"),
        )
    if on("levers"):
        # Completions are a quarter of a row, as in the demo's data.
        compare(
            f"ours, every lever, top {top} layers / plain peft, the same layers",
            0.35,
            Ours(fresh(big), big, 1, batch, length, length // 4, top=top, cached=True),
            Peer(fresh(big), big, 1, batch, length, length // 4, mode="plain", top=top),
        )
    if on("dispatch"):
        compare(
            "thin layers, 16 tenants fused / sequential Opacus hooks",
            0.05,
            Ours(fresh(thin), thin, 16, 2, 4, 4),
            Peer(fresh(thin), thin, 16, 2, 4, 4, mode="hooks"),
        )
    if on("ops"):
        one = dispatched_ops(Ours(fresh(thin), thin, 1, 64, 4, 4))
        many = dispatched_ops(Ours(fresh(thin), thin, 64, 1, 4, 4))
        report.add("dispatched operations per step, 64 tenants / 1 tenant", many / one, "ratio", at_most=1.05)
    if on("memory") and device.type == "cpu":
        peaks = {}
        for side in SIDES:
            peaks[side] = peak_above_model(side, big, batch, length)
            report.add(f"{side}, 1 tenant of {batch} rows: peak memory above the model", peaks[side], "bytes")
        report.add(
            "peak memory above the model, ours / plain", peaks["ours"] / peaks["plain"], "ratio", at_most=1.0
        )
    if on("tenants"):
        scaling(args, device, dtype, big, length, report)


def side_of(side, model, shape, tenants, rows_each, length):
    if side == "ours":
        return Ours(model, shape, tenants, rows_each, length, length)
    return Peer(model, shape, 1, rows_each, length, length, mode=side)


def scaling(args, device, dtype, shape, length, report: Report) -> None:
    """Every side for more and more tenants of two rows each.

    Peers train one tenant after another on one adapter and one optimizer (they pay for no switching), so that their
    step for n tenants is n times the measured step for one.
    """
    rows_each = 2
    few = args.tiny or (device.type == "cpu" and not args.full)
    counts = (1, 4) if few else (1, 4, 16, 64)
    for side in args.sides.split(",") if args.sides else SIDES:
        alone = None
        for tenants in counts:
            if side == "ours" or alone is None:
                trained = side_of(side, random_model(shape, device, dtype), shape, tenants, rows_each, length)
                trained.step()
                if device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats(device)
                times = []
                for _ in range(2 if tenants > 16 else args.repeats):
                    synchronize(device)
                    began = time.perf_counter()
                    trained.step()
                    synchronize(device)
                    times.append(time.perf_counter() - began)
                alone = statistics.median(times), dispatched_ops(trained)
                if device.type == "cuda":
                    peak = torch.cuda.max_memory_allocated(device)
                    report.add(f"{side}, {tenants} tenants of {rows_each} rows: peak memory", peak, "bytes")
                del trained
            turns = 1 if side == "ours" else tenants
            seconds, operations = alone[0] * turns, alone[1] * turns
            name = f"{side}, {tenants} tenants of {rows_each} rows"
            report.add(f"{name}: step time", seconds, "s")
            report.add(f"{name}: speed", tenants * rows_each * length / seconds, "tokens/s")
            report.add(f"{name}: dispatched operations", operations, "per step")
            report.add(f"{name}: adapters of {STEPS} steps", 3600 * tenants / (STEPS * seconds), "per hour")


def peak_above_model(side: str, shape: str, batch: int, length: int) -> int:
    """Peak resident memory of two steps above the loaded model, in a process of its own."""
    command = [
        sys.executable,
        __file__,
        "--memory-of",
        side,
        "--shape",
        shape,
        "--rows",
        str(batch),
        "--length",
        str(length),
    ]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def report_memory(args) -> None:
    """Child of ``peak_above_model``: the peak is sampled, since a process cannot reset its own maximum."""
    import threading

    device = torch.device("cpu")
    model = random_model(args.shape, device, torch.float32)
    page = os.sysconf("SC_PAGESIZE")
    loaded = resident(page)
    kind = side_of(args.memory_of, model, args.shape, 1, args.rows, args.length)
    peak = loaded
    done = threading.Event()

    def watch():
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, resident(page))

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(2):
        kind.step()
    done.set()
    watcher.join()
    print(peak - loaded)


def resident(page: int) -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * page


def h200(args, device, dtype, report: Report) -> None:
    """Tokens per second per model shape, and adapters per hour against sequential Opacus and peft."""
    sizes = (
        [("tiny", 4, None)] if args.tiny else [("135m", 64, 500_000), ("1b", 32, 80_000), ("8b", 8, 16_000)]
    )
    for shape, tenants, must in sizes:
        model = random_model(shape, device, dtype)
        rows, length = 8, 16 if args.tiny else 64
        # As many tokens in one pass as memory holds: a GPU wants large batches.
        side = Ours(model, shape, tenants, rows, length, length, microbatch=1 << 15)
        side.step()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        seconds = repeated(side, device, 15 if device.type == "cuda" else 1)
        name = f"{shape}, {tenants} tenants of {rows} rows of {length} tokens"
        report.add(f"{name}: step time", seconds, "s")
        speed = tenants * rows * length / seconds
        report.add(f"{name}: speed", speed, "tokens/s", at_least=must)
        adapters = 3600 * tenants / (STEPS * seconds)
        report.add(f"{name}: adapters of {STEPS} steps", adapters, "per hour")
        if device.type == "cuda":
            report.add(f"{name}: peak memory", torch.cuda.max_memory_allocated(device), "bytes")
        del side
        if shape in {"135m", "tiny"}:
            alone = repeated(Peer(model, shape, 1, rows, length, length, mode="hooks"), device, 1)
            report.add(f"{shape}, one tenant with Opacus hooks: step time", alone, "s")
            ratio = alone * tenants / seconds
            at_least = None if args.tiny else 100
            report.add(f"{name}: adapters per hour / sequential hooks", ratio, "ratio", at_least=at_least)
        del model


def repeated(side, device: torch.device, enough: float) -> float:
    """Mean seconds of a step over at least three steps and about ``enough`` seconds."""
    side.step()
    synchronize(device)
    began, count = time.perf_counter(), 0
    while count < 3 or (time.perf_counter() - began < enough and count < 200):
        side.step()
        count += 1
    synchronize(device)
    return (time.perf_counter() - began) / count


def machine(device: torch.device) -> dict[str, object]:
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "peft": peft.__version__,
        "opacus": opacus.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--suite", choices=("table", "h200", "smoke"), default="table")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument(
        "--only", help="comma-separated parts: plain,ghost,private,fused,levers,dispatch,ops,memory,tenants"
    )
    parser.add_argument("--sides", help="comma-separated sides of the part tenants")
    parser.add_argument("--full", action="store_true", help="16 and 64 tenants on a CPU too")
    parser.add_argument("--memory-of", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--shape", default="135m", help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, default=8, help=argparse.SUPPRESS)
    parser.add_argument("--length", type=int, default=64, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.tiny = args.suite == "smoke"
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.memory_of:
        report_memory(args)
        return
    keep_freed_memory()
    device = torch.device(args.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    settings = {
        "suite": args.suite,
        "device": args.device,
        "dtype": str(dtype),
        "repeats": args.repeats,
        "rank": RANK,
        "seeds": {"weights": 0, "rows": 0},
        "shapes": SHAPES,
    }
    report = Report(device, settings)
    print(json.dumps(report.machine), flush=True)
    if args.suite in {"table", "smoke"}:
        table(args, device, dtype, report)
    if args.suite in {"h200", "smoke"}:
        h200(args, device, dtype, report)
    if args.json:
        args.json.write_text(json.dumps(report.document(), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
