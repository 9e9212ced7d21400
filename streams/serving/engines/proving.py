"""Ask an engine what a version's manifest says: alone, and then several questions at once that meet in one batch.

An engine may answer every question rightly that it gets alone and mix those that it computes together (vLLM on a CPU
does: the base answers as somebody's adapter). No single answer shows that, so nothing is called verified before the
base and a few adapters, asked at once, said again what each said alone. An engine is condemned by two of three such
trials: a single answer that was otherwise, for whatever reason, takes nothing away from everybody.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from streams.client import Proof, Reading, compare, readings
from streams.client.activation import LEAST_SHARE
from streams.client.errors import AdapterUnprovenError
from streams.errors import EngineLoadError, EngineMixesError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from streams.client import AdapterVersionV1, Measured
    from streams.serving.engines.engine import Engine

MOST_TOGETHER = 3  # adapters that are asked at once, each beside the base
LEAST_QUESTIONS = 4  # the first begins by itself; the others wait for it and are computed together
TRIALS, ENOUGH = 3, 2  # so many trials decide, and so many of them condemn; a sound engine needs one


@dataclass(frozen=True, kw_only=True)
class Alone:
    """What an engine answered when nobody else of ours asked, as the manifest says it should.

    Attributes:
        name: of the version.
        reading: the public text that the adapter changes most.
        base: log-probabilities of its watched tokens by the base.
        adapted: the same with the adapter.
        allowed: mean difference, in nats, that is still the same answer: what a proof allows too.
    """

    name: str
    reading: Reading
    base: tuple[float, ...]
    adapted: tuple[float, ...]
    allowed: float


def asked_alone(engine: Engine, version: AdapterVersionV1) -> tuple[Measured, Alone]:
    """Ask the engine without and with a version, one question after the other.

    Raises:
        AdapterUnprovenError: the answers are not what the manifest says, or it says too little.
        EngineLoadError: the engine does not take questions to the version.
        EngineUnreachableError: it does not answer.
    """
    name, activation = version.served_name, version.manifest.evaluation.activation
    if activation is None:
        raise AdapterUnprovenError("the version carries nothing to prove it with")
    asked = readings(activation)
    base = engine.next_log_probabilities(asked, name=None)
    adapted = engine.next_log_probabilities(asked, name=name)
    measured = compare(activation, base, adapted, precision=engine.precision)
    if measured.proof is not Proof.PROVED:
        raise AdapterUnprovenError("the version changes too little to tell it from the base here")
    return measured, _strongest(name, asked, base, adapted, activation.tolerances[engine.precision])


def ask_together(engine: Engine, together: Sequence[Alone]) -> None:
    """Ask for versions and, beside each, for the base, all at once; the answers must be those of before.

    Raises:
        EngineMixesError: in two of three trials at least one is not, and is when that question is asked alone again.
        EngineLoadError: in one of three; or the engine does not take questions to a version, or answers one otherwise
            alone as well.
        EngineUnreachableError: it does not answer.
    """
    questions = [(one, name) for one in together[:MOST_TOGETHER] for name in (one.name, None)]
    questions *= max(1, math.ceil(LEAST_QUESTIONS / max(1, len(questions))))
    if not questions:
        return
    mixed = 0
    for _ in range(TRIALS):
        wrong = _wrong(engine, questions)
        if wrong is None and not mixed:
            return
        if wrong is None:
            continue
        one, name = wrong
        if not _same(one, name, engine.next_log_probabilities((one.reading,), name=name)):
            raise EngineLoadError("the engine does not answer as it did a moment ago; all is asked anew")
        mixed += 1
        if mixed >= ENOUGH:
            raise EngineMixesError(
                "the engine answers a question with another model when it gets several at once; "
                "start it anew so that it computes one at a time (vLLM: --max-num-seqs 1)"
            )
    raise EngineLoadError(
        "the engine answered otherwise in one of several trials that were the same; all is asked anew"
    )


def _wrong(engine: Engine, questions: Sequence[tuple[Alone, str | None]]) -> tuple[Alone, str | None] | None:
    """Ask everything at once; return the first question that was not answered as alone, if there is one."""
    with ThreadPoolExecutor(max_workers=len(questions), thread_name_prefix="beside") as pool:
        answers = list(
            pool.map(
                lambda each: engine.next_log_probabilities((each[0].reading,), name=each[1]),
                questions,
            )
        )
    for (one, name), answer in zip(questions, answers, strict=True):
        if not _same(one, name, answer):
            return one, name
    return None


def _same(one: Alone, name: str | None, answer: Sequence[float]) -> bool:
    """Say whether the base (without a name) or the version answered as it did alone."""
    alone = one.base if name is None else one.adapted
    return (
        len(answer) == len(alone) and _distance(answer, alone) <= one.allowed
    )  # what is no number is not near


def _strongest(
    name: str, asked: Sequence[Reading], base: Sequence[float], adapted: Sequence[float], tolerance: float
) -> Alone:
    """Return the text whose answers the adapter moved most."""
    found, start = [], 0
    for reading in asked:
        end = start + sum(len(watched) for _, watched in reading.points)
        without, with_it = tuple(base[start:end]), tuple(adapted[start:end])
        moved, start = _distance(without, with_it), end
        allowed = min(tolerance, LEAST_SHARE * moved)
        found.append(
            (moved, Alone(name=name, reading=reading, base=without, adapted=with_it, allowed=allowed))
        )
    return max(found, key=lambda pair: pair[0])[1]


def _distance(one: Iterable[float], other: Iterable[float]) -> float:
    """Return the mean absolute difference, in nats."""
    differences = [abs(left - right) for left, right in zip(one, other, strict=True)]
    return sum(differences) / max(1, len(differences))
