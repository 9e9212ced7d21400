"""The gate: what leaves a tenant's data passes here, and only if every field of it has a mark.

A mark says why a field may leave. ``CHARGED`` is paid for in the ledger, or made from what was; ``PUBLIC`` says nothing
about any user; ``SLOT_TIMED`` is a time, and one of the public clock's slots, never of when work ended; ``OPERATOR`` is
seen by the operator alone, who is trusted and named as such in the statement. ``privacy.boundary.register`` holds the
marks; a field without one is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from privacy.errors import BoundaryError

Value = TypeVar("Value")
T_co = TypeVar("T_co", covariant=True)


class Mark(StrEnum):
    """Why something may leave."""

    CHARGED = "charged"
    PUBLIC = "public"
    SLOT_TIMED = "slot_timed"
    OPERATOR = "operator"


class Kind(StrEnum):
    """What leaves, by the form in which it does."""

    MANIFEST = "manifest"
    ADAPTER_CONFIG = "adapter_config"
    ADAPTER_EVENT = "adapter_event"
    ADAPTER_STATE = "adapter_state"
    ENVELOPE = "envelope"
    OUTCOME = "outcome"
    CERTIFICATE = "certificate"
    CONSENT_TOMBSTONE = "consent_tombstone"
    DEAD_LETTER = "dead_letter"
    LEDGER_ENTRY = "ledger_entry"
    HTTP_ANSWER = "http_answer"
    METRIC = "metric"
    TRACE = "trace"
    LOG = "log"
    ARTIFACT_STORE = "artifact_store"
    ANCHOR = "anchor"
    ERASURE_REGISTER = "erasure_register"
    STORY = "story"
    LINEAGE_EXPORT = "lineage_export"


@dataclass(frozen=True)
class Group:
    """Fields of one kind that leave for the same reason.

    Attributes:
        mark: why they may leave.
        why: one sentence.
        fields: dotted names; lists are looked through, and ``a.*`` stands for everything under ``a``.
    """

    mark: Mark
    why: str
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Released(Generic[T_co]):
    """A value that passed the gate; only ``Boundary.release`` makes one."""

    kind: Kind
    value: T_co


class Boundary:
    """The gate over a register of marks.

    Args:
        register: the groups of each kind.

    Raises:
        ValueError: a field has two marks.
    """

    def __init__(self, register: Mapping[Kind, tuple[Group, ...]]) -> None:
        self._groups = dict(register)
        self._marks: dict[Kind, dict[str, Group]] = {}
        for kind, groups in register.items():
            marks = self._marks[kind] = {}
            for group in groups:
                for name in group.fields:
                    if name in marks:
                        raise ValueError(f"{name} of {kind.value} has two marks; every field has one")
                    marks[name] = group

    def mark_of(self, kind: Kind, name: str) -> Mark | None:
        """Return the mark of a field; ``None`` where it has none."""
        marks = self._marks.get(kind, {})
        if name in marks:
            return marks[name].mark
        parts = name.split(".")
        for length in range(len(parts) - 1, 0, -1):
            group = marks.get(".".join(parts[:length]) + ".*")
            if group is not None:
                return group.mark
        return None

    def require(self, kind: Kind, names: Iterable[str]) -> None:
        """Let nothing pass that has no mark.

        Raises:
            BoundaryError: a name has none.
        """
        unmarked = sorted({name for name in names if self.mark_of(kind, name) is None})
        if unmarked:
            raise BoundaryError(
                f"{', '.join(unmarked)} of {kind.value} would leave without a mark; give it one in the register "
                "of the boundary and say why it may leave"
            )

    def release(self, kind: Kind, value: Value, document: Mapping[str, object]) -> Released[Value]:
        """Return ``value`` as released, when every field of ``document``, which is all it says, has a mark.

        Raises:
            BoundaryError: a field has none.
        """
        self.require(kind, leaves(document))
        return Released(kind, value)

    def to_document(self) -> list[dict[str, object]]:
        """Return the register, JSON-ready: kind, mark, sentence and fields of each group."""
        return [
            {"kind": kind.value, "mark": group.mark.value, "why": group.why, "fields": list(group.fields)}
            for kind, groups in self._groups.items()
            for group in groups
        ]


def leaves(document: Mapping[str, object], prefix: str = "") -> Iterator[str]:
    """Yield the dotted name of every value of a JSON document; lists are looked through."""
    for name, value in document.items():
        yield from _leaves_of(value, f"{prefix}{name}")


def _leaves_of(value: object, name: str) -> Iterator[str]:
    if isinstance(value, Mapping) and value:
        yield from leaves(value, f"{name}.")
    elif isinstance(value, list | tuple) and value:
        for one in value:
            yield from _leaves_of(one, name)
    else:
        yield name
