"""Where anchored records lie outside the database: a compacted topic, or a file where there is no lasting broker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from streams.contracts.codec import Record


class AnchorStore(Protocol):
    """Keeps the last record of each key, of the anchor and of the register of erasures."""

    def read(self) -> Sequence[Record]:
        """Return the anchor's records that were written since the last call, in order; at first all that stand.

        Raises:
            AnchorUnavailableError: it cannot be read to its end now; the next call goes on where this one stopped.
        """

    def write(self, records: Sequence[Record]) -> None:
        """Keep ``records``, of either kind, and return when they would survive a crash.

        Raises:
            AnchorUnavailableError: at least one was not confirmed; it may have been kept all the same.
        """

    def erased(self) -> Iterable[Record]:
        """Return every record of the register of erasures.

        Raises:
            AnchorUnavailableError: it cannot be read to its end now.
        """

    def close(self) -> None:
        """Give back all resources."""
