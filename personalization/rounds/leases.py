"""Keep the leases of a running job alive from a thread, and notice at once when one is lost."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final, Self

import structlog

from personalization.errors import LeaseLostError
from personalization.rounds.queries import renew_lease
from privacy.errors import DiscreetError
from privacy.storage.session import transaction

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import timedelta

    from sqlalchemy.engine import Engine

    from personalization.rounds.states import Lease
    from privacy.clock import Clock

_log = structlog.get_logger(__name__)

LONGEST_JOIN_SECONDS: Final = 10.0  # for a renewal that is under way when the work is done


class LeaseKeeper:
    """Renews leases every third of their length; use it as a context manager.

    A renewal that is refused for good, or that fails until the lease ends, counts as a loss: from then on another
    trainer may own the round, and this one must not go on. So does an end that nobody moved, because a renewal hangs
    or the thread is gone.
    """

    def __init__(self, engine: Engine, clock: Clock, leases: Iterable[Lease], length: timedelta) -> None:
        self._engine = engine
        self._clock = clock
        self._length = length
        self._held = {lease.round_id: (lease, lease.expires_at) for lease in leases}
        self._lost: set[str] = set()
        self._guard = threading.RLock()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="discreet-leases", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._done.set()
        # Not for ever: a trainer that waits for a renewal that hangs would be deaf to whoever asks it to leave. What
        # such a renewal still does, later, is to lengthen a lease that nobody works under.
        self._thread.join(LONGEST_JOIN_SECONDS)

    def lost(self, lease: Lease) -> bool:
        """Return whether this trainer may no longer work on the round."""
        now = self._clock.now()
        with self._guard:
            held = self._held.get(lease.round_id)
            if held is not None and now >= held[1]:
                self._lose(lease)
            return lease.round_id in self._lost

    def holds(self, lease: Lease) -> bool:
        """Return whether the round is still worked on: neither lost nor closed nor put down."""
        with self._guard:
            return lease.round_id in self._held

    def drop(self, lease: Lease) -> None:
        """Stop renewing a round that is closed or put down."""
        with self._guard:
            self._held.pop(lease.round_id, None)

    def renew(self) -> None:
        """Renew every held lease once."""
        with self._guard:
            held = list(self._held.values())
        for lease, ends_at in held:
            try:
                now = self._clock.now()
                with transaction(self._engine) as session:
                    renew_lease(session, lease, now, self._length)
            except LeaseLostError:
                self._lose(lease)
            except Exception as error:  # noqa: BLE001  # without renewal hours of training would be for nothing
                _not_renewed(lease, error)
                for_good = isinstance(error, DiscreetError) and not error.retryable
                if for_good or self._clock.now() >= ends_at:
                    self._lose(lease)
            else:
                with self._guard:
                    if lease.round_id in self._held:
                        self._held[lease.round_id] = (lease, now + self._length)

    def _lose(self, *leases: Lease) -> None:
        with self._guard:
            # A round that was closed in the meantime is not held any more, and not lost either.
            lost = [lease for lease in leases if self._held.pop(lease.round_id, None) is not None]
            self._lost.update(lease.round_id for lease in lost)
        for lease in lost:
            _log.warning("lease_lost", round_id=lease.round_id, epoch=lease.epoch)

    def _run(self) -> None:
        try:
            while not self._done.wait(self._length.total_seconds() / 3):
                self.renew()
        finally:
            if not self._done.is_set():  # nobody renews from here on
                with self._guard:
                    self._lose(*[lease for lease, _ in self._held.values()])


def _not_renewed(lease: Lease, error: Exception) -> None:
    """Tell of a renewal that failed; the text of what is none of our errors may hold what somebody wrote."""
    code = error.code if isinstance(error, DiscreetError) else None
    _log.warning("lease_not_renewed", round_id=lease.round_id, code=code, error=type(error).__name__)
