"""Bring a database that was set back above its anchor: what was spent is forfeited, who was erased is erased again.

Nothing here gives anything back. A lost release keeps its charge, a lost reservation too, and what an account of the
backup holds beyond the anchor stays charged as well. Everything happens in the caller's transaction, so a restore that
stops halfway has changed nothing that counts and is run again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from personalization.registry.anchoring import owners_of_lines, raise_lines
from personalization.signals.rows import delete_user_signals
from privacy.anchor.due import lock_anchor, timeline
from privacy.erasure.again import erase_again
from privacy.keys.batch_locks import lock_out_batches
from privacy.keys.destruction import all_erased, raise_erasure_count
from privacy.ledger.anchoring import all_chains, forfeit_lost
from privacy.policy.versions import list_tenants, newest_versions, registered_among
from privacy.storage.subjects import Subject
from streams.anchor.marks import ledger_mark, line_mark
from streams.storage.consumed_offsets import consumed, read_from_the_start

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from sqlmodel import Session

    from personalization.registry.announcements import Act, AdapterEvents
    from privacy.keys.keyring import Keyring
    from privacy.ledger import Ledger
    from streams.anchor.guard import AnchorGuard

SUBJECTS_AT_ONCE = 500


@dataclass(frozen=True, kw_only=True)
class Reconciled:
    """What a restore did.

    Attributes:
        timeline: the life of the database that began with it.
        behind: of each owner, in what the database lay below the anchor.
        charged: accounts that forfeited what was spent since the backup, by owner.
        lines: adapter lines that were taken above their anchored epoch and announced again.
        unregistered: tenants that the backup does not know; their spending stays known when they are registered again.
        policies: tenants of which a newer policy than the backup's was anchored, and its version.
    """

    timeline: int
    behind: dict[str, str]
    charged: dict[str, tuple[str, ...]]
    lines: tuple[str, ...]
    unregistered: tuple[str, ...]
    policies: dict[str, int]


def replay_erasures(
    session: Session, keyring: Keyring, subjects: Collection[Subject], *, now: datetime
) -> int:
    """Erase again those of ``subjects`` whose tenant is registered and who came back; return how many.

    They may be named as they were when they were erased; pseudonym keys that came later are known.
    """
    known = sorted(registered_among(session, sorted({subject.tenant_id for subject in subjects})))
    lock_out_batches(session, known)
    keys = keyring.keys_of_tenants(session, known, now=now)
    wanted = sorted(
        {
            Subject(subject.tenant_id, keys[subject.tenant_id].hashes.brought_up(subject.pseudonym))
            for subject in subjects
            if subject.tenant_id in keys
        }
    )
    return sum(
        erase_again(
            session,
            keyring.store,
            wanted[start : start + SUBJECTS_AT_ONCE],
            now=now,
            delete_signals=delete_user_signals,
        )
        for start in range(0, len(wanted), SUBJECTS_AT_ONCE)
    )


def reconcile(
    session: Session,
    guard: AnchorGuard,
    *,
    ledger: Ledger,
    events: AdapterEvents,
    act: Act,
    accept_lost_anchor: bool = False,
) -> Reconciled:
    """Charge, raise and write down everything, and begin a new timeline; the caller commits right after.

    Args:
        session: a transaction of its own.
        guard: has read the anchor.
        ledger: forfeits what is open.
        events: tells servers what lines serve now.
        act: who asks, and why.
        accept_lost_anchor: also write the register of erasures anew, from the database.

    Raises:
        LedgerIntegrityError: a chain of the backup does not hold together.
        AnchorUnavailableError: the anchor did not confirm; nothing was changed.
    """
    lock_anchor(session)
    number = max(guard.newest_timeline(), timeline(session) or 0) + 1
    behind = guard.behind(session)
    known = registered_among(session, sorted(guard.tenants))
    policies = newest_versions(session, sorted(behind))
    charged: dict[str, tuple[str, ...]] = {}
    lines: list[str] = []
    for owner in sorted(behind):
        anchored = guard.tenants[owner]
        if anchored.ledger is not None:
            charged[owner] = forfeit_lost(
                session, ledger, owner, ledger_mark(anchored.ledger), timeline=number, now=act.now
            )
        raise_erasure_count(session, owner, anchored.erasures)
        lines += raise_lines(session, events, owner, [line_mark(line) for line in anchored.lines], act)
    if guard.offsets is not None:
        stored = consumed(session)
        places = [(one.topic, one.partition) for one in guard.offsets.offsets]
        read_from_the_start(session, [place for place in places if place not in stored])
    session.flush()
    erased = all_erased(session) if accept_lost_anchor else ()
    tenants = (tenant.tenant_id for tenant in list_tenants(session))
    guard.restart(session, number, {*all_chains(session), *owners_of_lines(session), *tenants}, erased)
    return Reconciled(
        timeline=number,
        behind=behind,
        charged={owner: accounts for owner, accounts in charged.items() if accounts},
        lines=tuple(lines),
        unregistered=tuple(
            owner for owner in sorted(behind) if owner not in known and guard.tenants[owner].policy_version
        ),
        policies={
            owner: guard.tenants[owner].policy_version
            for owner in sorted(behind)
            if policies.get(owner, 0) < guard.tenants[owner].policy_version
        },
    )
