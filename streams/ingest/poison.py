"""What is done about many dead letters: their sender is slowed, and the worker stops for its own faults alone.

A letter is its sender's doing: a tenant nearly all of whose events are refused is named in the log, counted, and from
then on served behind all others, until a window of its events is accepted again. Nothing of it is refused for that, and
no other tenant waits. Only ``processing_failed`` is ours: when nearly everything fails so, and for several tenants, the
code is at fault and going on would drain the topic into dead letters. Then the worker stops.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from streams.errors import PoisonedTopicError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MOST_TENANTS: Final = 10_000
"""Most names that are watched at once; anybody who may write to the topic can make names up."""

_TENANT = re.compile(rb"([a-z0-9][a-z0-9-]{0,62})/").match


def tenant_of(key: bytes | None) -> str | None:
    """Return the tenant that a record's key names; ``None`` when it names none."""
    found = _TENANT(key) if key is not None else None
    return None if found is None else found[1].decode()


@dataclass(slots=True)
class _Window:
    events: int = 0
    letters: int = 0


class SlowedTenants:
    """Knows which tenants are slowed, each by its own events alone.

    Args:
        window: so many events of a tenant are judged together.
        share: share of dead letters among them from which on the tenant is slowed; above 1: none ever is.
    """

    def __init__(self, window: int, share: float) -> None:
        self._window = window
        self._share = share
        self._windows: dict[str | None, _Window] = {}
        self._slowed: set[str | None] = set()

    def __contains__(self, tenant: str | None) -> bool:
        return tenant in self._slowed

    def __len__(self) -> int:
        return len(self._slowed)

    def note(self, events: Mapping[str | None, int], letters: Mapping[str | None, int]) -> list[str | None]:
        """Add a batch; return the tenants that are slowed from now on and were not before."""
        new: list[str | None] = []
        for tenant, count in events.items():
            window = self._windows.get(tenant)
            if window is None:
                if len(self._windows) >= MOST_TENANTS:
                    self._forget_quiet()
                window = self._windows[tenant] = _Window()
            window.events += count
            window.letters += letters.get(tenant, 0)
            if window.events < self._window:
                continue
            if window.letters >= self._share * window.events:
                if tenant not in self._slowed:
                    new.append(tenant)
                self._slowed.add(tenant)
            else:
                self._slowed.discard(tenant)
            del self._windows[tenant]
        return new

    def _forget_quiet(self) -> None:
        """Drop the half of the windows with the fewest events: forgetting slows nobody."""
        quiet = sorted(self._windows, key=lambda tenant: self._windows[tenant].events)
        for tenant in quiet[: MOST_TENANTS // 2]:
            del self._windows[tenant]


@dataclass
class FaultGuard:
    """Watches for faults of our own among the last ``window`` events of all tenants.

    Attributes:
        window: number of recent events.
        share: share of them that must have failed; above 1 switches the guard off.
        tenants: fewest different tenants whose events failed, so that no single one can stop the worker.
    """

    window: int
    share: float
    tenants: int
    _recent: deque[tuple[int, Counter[str | None]]] = field(default_factory=deque)
    _events: int = 0
    _failed: Counter[str | None] = field(default_factory=Counter)

    def note(self, events: int, failed: Iterable[str | None]) -> None:
        """Add a batch: how many events it had, and the tenant of each that failed.

        Raises:
            PoisonedTopicError: the window is full, the share is reached, and by several tenants' events.
        """
        counted = Counter(failed)
        self._recent.append((events, counted))
        self._events += events
        self._failed += counted
        while self._recent and self._events - self._recent[0][0] >= self.window:
            gone, gone_failed = self._recent.popleft()
            self._events -= gone
            self._failed -= gone_failed
        failures = self._failed.total()
        if (
            self._events >= self.window
            and failures >= self.share * self._events
            and len(self._failed) >= self.tenants
        ):
            raise PoisonedTopicError(
                f"{failures} of the last {self._events} events failed in this worker, of {len(self._failed)} "
                f"tenants, and the limit is {self.share:.0%}; look at the errors with `discreet dlq list` before "
                "the next start"
            )
