"""Where requests of each line go now, what is verified, and what somebody wanted; for several threads."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

MOST_WANTED = 10_000  # names that are remembered between two looks
MOST_OF_ONE = 1_000  # of one share of the engine's places


class Routes:
    """Small state between the bridge and its HTTP side."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._current: dict[str, str] = {}
        self._verified: frozenset[str] = frozenset()
        self._failures: dict[str, str] = {}
        self._wanted: dict[str, str] = {}
        self._shares: Counter[str] = Counter()
        self._unsafe: str | None = None

    def current(self, line: str) -> str | None:
        """Return the served name that a line's requests go to; None is the base."""
        with self._guard:
            return self._current.get(line)

    def set(self, line: str, name: str | None) -> None:
        """Send a line's requests to a version, or to the base."""
        with self._guard:
            if name is None:
                self._current.pop(line, None)
            else:
                self._current[line] = name
                self._failures.pop(name, None)

    def verify(self, names: Collection[str]) -> None:
        """Note all that is verified now."""
        with self._guard:
            self._verified = frozenset(names)

    def failed(self, name: str, code: str) -> None:
        """Note why a version is not served."""
        with self._guard:
            self._failures[name] = code

    @property
    def unsafe(self) -> str | None:
        """Why nothing is served on this engine; None where it is."""
        with self._guard:
            return self._unsafe

    def refuse_all(self, code: str | None) -> None:
        """Note that, and why, nothing may be served on this engine; None takes it back."""
        with self._guard:
            self._unsafe = code

    def forget(self, name: str) -> None:
        """Forget a version that left."""
        with self._guard:
            self._failures.pop(name, None)
            self._verified -= {name}

    def want(self, names: Mapping[str, str]) -> None:
        """Note that somebody asked for versions, whether or not they are there.

        Args:
            names: served names, each with the share on whose behalf it is asked for; empty where nobody said.
        """
        with self._guard:
            for name, share in names.items():
                room = len(self._wanted) < MOST_WANTED and not (share and self._shares[share] >= MOST_OF_ONE)
                if name not in self._wanted and room:
                    self._wanted[name] = share
                    self._shares[share] += 1

    def wanted(self) -> Mapping[str, str]:
        """Return what was asked for since the last call, each name with its share; empty where nobody said."""
        with self._guard:
            found, self._wanted = self._wanted, {}
            self._shares.clear()
        return found

    def document(self) -> dict[str, Any]:
        """Return all of it, JSON-ready."""
        with self._guard:
            return {
                "adapters": dict(self._current),
                "verified": sorted(self._verified),
                "failures": dict(self._failures),
                "unsafe": self._unsafe,
            }
