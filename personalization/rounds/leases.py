"""Keep the leases of a running job alive from a thread, and notice at once when one is lost."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Self

import structlog

from personalization.errors import RoundError
from personalization.rounds.queries import renew_lease
from privacy.errors import StorageError
from privacy.storage.session import transaction

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import timedelta

    from sqlalchemy.engine import Engine

    from personalization.rounds.states import Lease
    from privacy.clock import Clock

_log = structlog.get_logger(__name__)


class LeaseKeeper:
    """Renews leases every third of their length; use it as a context manager.

    A renewal that the database refuses or that fails until the lease would have ended counts as a loss: from
    then on another trainer may own the round, and this one must not go on.
    """

    def __init__(self, engine: Engine, clock: Clock, leases: Iterable[Lease], length: timedelta) -> None:
        self._engine = engine
        self._clock = clock
        self._length = length
        self._held = {lease.round_id: (lease, lease.expires_at) for lease in leases}
        self._lost: set[str] = set()
        self._guard = threading.Lock()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="discreet-leases", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._done.set()
        self._thread.join()

    def lost(self, lease: Lease) -> bool:
        """Return whether this trainer may no longer work on the round."""
        with self._guard:
            return lease.round_id in self._lost

    def drop(self, lease: Lease) -> None:
        """Stop renewing a round that is closed or put down."""
        with self._guard:
            self._held.pop(lease.round_id, None)

    def renew(self) -> None:
        """Renew every held lease once."""
        with self._guard:
            held = list(self._held.values())
        for lease, expires_at in held:
            now = self._clock.now()
            try:
                with transaction(self._engine) as session:
                    renew_lease(session, lease, now, self._length)
            except RoundError:
                self._lose(lease)
            except StorageError as error:
                _log.warning("lease_not_renewed", round_id=lease.round_id, code=error.code)
                if now >= expires_at:
                    self._lose(lease)
            else:
                with self._guard:
                    if lease.round_id in self._held:
                        self._held[lease.round_id] = (lease, now + self._length)

    def _lose(self, lease: Lease) -> None:
        with self._guard:
            # A round that was closed in the meantime is not held any more, and not lost either.
            if self._held.pop(lease.round_id, None) is not None:
                self._lost.add(lease.round_id)
                _log.warning("lease_lost", round_id=lease.round_id, epoch=lease.epoch)

    def _run(self) -> None:
        while not self._done.wait(self._length.total_seconds() / 3):
            self.renew()
