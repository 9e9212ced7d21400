"""The suites' items, from the data files beside this module; of the project's own writing, so free to ship."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib import resources
from typing import Any, Final

from personalization.suites.values import Axis, Canary, Choice, Foreign, SuiteDepth
from privacy.canonical import digest_of

QUICK_ITEMS: Final = (
    4  # of each axis, each with a wording of its own: seconds for a model of 135 M on two cores
)
_AXES: Final = {
    "refusal": Axis.REFUSAL,
    "helpfulness": Axis.HELPFULNESS,
    "direct": Axis.DIRECT_INJECTION,
    "retrieved": Axis.RETRIEVED_INJECTION,
    "supported": Axis.GROUNDING,
    "counterfactual": Axis.GROUNDING,
    "unanswerable": Axis.GROUNDING,
}
_CHOICES: Final = ("safety.jsonl", "injection.jsonl", "grounding.jsonl")


@dataclass(frozen=True, kw_only=True)
class Items:
    """All items of one depth."""

    choices: tuple[Choice, ...]
    foreign: tuple[Foreign, ...]
    canaries: tuple[Canary, ...]

    def digest(self) -> str:
        """Return one digest over everything that is asked: equal digests, equal questions."""
        return digest_of(asdict(self))


@lru_cache(maxsize=4)
def items_of(depth: SuiteDepth) -> Items:
    """Return what is asked at a depth.

    Args:
        depth: ``QUICK`` takes the first items of each axis, of grounding equally many of each kind.
    """
    if depth is SuiteDepth.OFF:
        return Items(choices=(), foreign=(), canaries=())
    choices = []
    for name in _CHOICES:
        rows = _read(name)
        if depth is SuiteDepth.QUICK:
            rows = _first_of_each(rows)
        choices += [
            Choice(
                name=row["id"],
                axis=_AXES[row["axis"]],
                template=row["template"],
                prompt=row["prompt"],
                right=row["right"],
                wrong=row["wrong"],
                control=row.get("control"),
            )
            for row in rows
        ]
    most = 2 * QUICK_ITEMS if depth is SuiteDepth.QUICK else None  # one row each, not two
    return Items(
        choices=tuple(choices),
        foreign=tuple(
            Foreign(name=row["id"], template=row["template"], prompt=row["prompt"], answer=row["answer"])
            for row in _read("foreign.jsonl")[:most]
        ),
        canaries=tuple(
            Canary(name=row["id"], prompt=row["prompt"], before=row["before"], secret=tuple(row["secret"]))
            for row in _read("canaries.jsonl")[:most]
        ),
    )


def _first_of_each(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the first rows of each axis, as many in all as one axis gets."""
    named = dict.fromkeys(row["axis"] for row in rows)
    axes = {_AXES[name] for name in named}
    each = -(-QUICK_ITEMS * len(axes) // len(named))
    return [row for name in named for row in [one for one in rows if one["axis"] == name][:each]]


def _read(name: str) -> list[dict[str, Any]]:
    text = (resources.files(__package__) / "data" / name).read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]
