"""What a bridge asks of the engine beside it, whichever it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from streams.client import Reading


class Engine(Protocol):
    """One serving engine.

    Attributes:
        kind: in reports, for example ``vllm``.
        precision: of its base, as manifests name tolerances.
        capacity: most adapters that it holds at once.
        tells: whether it can be asked for log-probabilities, so that what it holds can be proved.
        mingles: whether it computes requests to several models in one batch and tells them apart by itself, so that
            this must be proved too; ``next_log_probabilities`` is then called by several threads.
    """

    kind: str
    precision: str
    capacity: int
    tells: bool
    mingles: bool

    @property
    def generation(self) -> int:
        """A number that grows whenever all that was proved must be proved again, because the engine began anew."""

    def held(self) -> frozenset[str]:
        """Return the served names that it lists.

        Raises:
            EngineUnreachableError: it does not answer.
        """

    def load(self, name: str, directory: Path) -> None:
        """Make an adapter ready to be loaded under its name; ``settle`` completes it.

        Raises:
            EngineLoadError: the engine does not take it.
            EngineUnreachableError: it does not answer.
        """

    def unload(self, name: str) -> None:
        """Forget a name, at the latest with ``settle``; one that is not there is no error."""

    def settle(self) -> None:
        """Bring the engine to what was loaded and unloaded since the last call.

        Raises:
            EngineUnreachableError: it does not answer.
        """

    def in_flight(self, name: str) -> int | None:
        """Return how many requests use an adapter now; None where the engine does not tell."""

    def next_log_probabilities(self, asked: Sequence[Reading], *, name: str | None) -> list[float]:
        """Return the log-probability of every watched token, in order; ``None`` asks the base alone.

        Raises:
            EngineUnreachableError: it does not answer.
        """

    def close(self) -> None:
        """End what the bridge itself started."""
