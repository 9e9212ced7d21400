"""Mutation testing of the lines that bear the guarantee.

``python -m tests.mutation [--only NAME] [--slice N] [--json PATH]``

Each mutant of ``mutants`` is one change of one place by which the stated ε would be false. It is applied to a copy of
the tree, the tests that the mutant names are run there, and at least one of them must fail. A mutant whose text is not
found exactly once is an error, so that the list stays true to the code; so is one whose tests do not pass without it.

``--slice N`` takes N mutants by ``--seed``, for continuous integration; everything else takes all.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
from pathlib import Path

from tests.mutation.harness import Outcome, Verdict, examine
from tests.mutation.mutants import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[2]


def chosen(only: list[str], slice_: int | None, seed: int) -> list[Mutant]:
    """Return the mutants to examine.

    Raises:
        SystemExit: a name is not one of a mutant.
    """
    if unknown := [name for name in only if name not in {mutant.name for mutant in MUTANTS}]:
        raise SystemExit(f"there is no mutant {unknown[0]!r}; --list names them")
    if only:
        return [mutant for mutant in MUTANTS if mutant.name in only]
    if slice_ is None:
        return list(MUTANTS)
    return random.Random(seed).sample(MUTANTS, min(slice_, len(MUTANTS)))


def parser() -> argparse.ArgumentParser:
    """Return the reader of the command line."""
    made = argparse.ArgumentParser(
        prog="python -m tests.mutation", description=(__doc__ or "").split("\n", 1)[0]
    )
    made.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="this mutant; may be repeated"
    )
    made.add_argument("--slice", type=int, metavar="N", help="so many of them, by --seed")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--json", type=Path, metavar="PATH", help="write the report here")
    made.add_argument("--list", action="store_true", help="name the mutants and why they break the guarantee")
    return made


def main(arguments: list[str] | None = None) -> int:
    """Examine mutants; return 0 when every one was killed."""
    asked = parser().parse_args(arguments)
    mutants = chosen(asked.only, asked.slice, asked.seed)
    if asked.list:
        for mutant in mutants:
            print(f"{mutant.name}: {mutant.why} ({mutant.file})")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # its tests and its copy of the tree end with it
    outcomes = []
    for outcome in examine(ROOT, mutants):
        outcomes.append(outcome)
        print(f"{outcome.verdict:9} {outcome.seconds:6.1f} s  {outcome.mutant}  {outcome.detail}", flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(report(outcomes), indent=2) + "\n")
    killed = sum(outcome.verdict is Verdict.KILLED for outcome in outcomes)
    print(f"{killed} of {len(outcomes)} mutants killed")
    return 0 if outcomes and killed == len(outcomes) else 1


def report(outcomes: list[Outcome]) -> dict[str, object]:
    """Return the report's document."""
    counts = {verdict.value: sum(one.verdict is verdict for one in outcomes) for verdict in Verdict}
    return {"mutants": len(outcomes), **counts, "outcomes": [one.to_document() for one in outcomes]}


if __name__ == "__main__":
    sys.exit(main())
