"""What whoever reads private data asks of the anchor: is this database the newest, and is its spending written down?

Spending is safe from a restore only where it was anchored before it bought anything. So a round asks three times:

    check    before it reserves: a database that was set back must not spend what it has forgotten
    secure   after the reservation is committed and before anything private is read: the charge is anchored
    secure   after the draw is recorded and before anything is told or published: the draw is anchored

A restore to before the reservation then finds the charge in the anchor and forfeits it. A restore to between
reservation and reading finds the same charge, and nothing was bought with it. A restore to between reading and the
record of the draw finds a run that nothing came out of. What lies behind the draw is told only when the draw is
anchored, so no second draw on other data can be made for the same charge: the database that would make it lies below
the anchor.

What moves for other reasons (epochs of lines, erasures, consumed offsets) is anchored after it is committed, by the
workers: at most ``DISCREET_OUTBOX__POLL_SECONDS`` and one write to the anchor later. A database that loses no more than
that is not told from one that lost nothing; no private read and no release can lie in that gap.
"""

from __future__ import annotations

from typing import Protocol


class Anchor(Protocol):
    """Heads of chains and lines, kept where no backup of the database reaches."""

    def check(self, tenant_id: str) -> None:
        """Compare a tenant (or another owner of a chain) with what is anchored of it.

        Raises:
            RewoundError: the database lies below the anchor.
            AnchorUnavailableError: the anchor cannot be read now.
        """

    def secure(self, tenant_id: str) -> None:
        """Anchor what is committed of a tenant; afterwards no restore can undo it unnoticed.

        Raises:
            RewoundError: the database lies below the anchor.
            AnchorUnavailableError: the anchor did not confirm; whoever asked must not go on.
        """


class Unanchored:
    """An anchor that holds nothing back, for runs over databases that are thrown away."""

    def check(self, tenant_id: str) -> None:
        """Compare nothing."""

    def secure(self, tenant_id: str) -> None:
        """Write nothing."""
