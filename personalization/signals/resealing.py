"""Seals anew what was sealed before values named their key and their row, in bounded transactions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import and_, bindparam, or_, select, update

from personalization.signals.rows import SignalRow
from personalization.signals.values import row_of
from privacy.keys.batch_locks import join_batches
from privacy.keys.envelope import sealed_under
from privacy.keys.keyring import Plaintext, Sealed
from privacy.storage.session import transaction

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import ColumnElement, Table
    from sqlalchemy.engine import Engine

    from privacy.keys.keyring import Keyring

_TABLE: Table = SignalRow.__table__  # type: ignore[attr-defined]  # SQLModel adds it to table classes
AT_ONCE: Final = 500


def reseal(engine: Engine, keyring: Keyring, tenant_id: str, *, now: datetime) -> int:
    """Seal every signal of the tenant in the newest form, bound to its row, and return how many were in an older one.

    A user whose key is gone is left out: nobody can read those rows, and retention deletes them.
    """
    done, after = 0, ("", -(2**62), b"")
    while True:
        with transaction(engine) as session:
            join_batches(session, [tenant_id])
            place = (_TABLE.c.pseudonym, _TABLE.c.period_index, _TABLE.c.event_digest)
            statement = (
                select(*place, _TABLE.c.domain, _TABLE.c.rank, _TABLE.c.occurred_at, _TABLE.c.ciphertext)
                .where(_TABLE.c.tenant_id == tenant_id, _after(place, after))
                .order_by(*place)
                .limit(AT_ONCE)
            )
            read = session.execute(statement).all()
            old = [
                (
                    bytes(digest),
                    Sealed(name, row_of(bytes(digest), domain, period, bytes(rank), at), bytes(value)),
                )
                for name, period, digest, domain, rank, at, value in read
                if sealed_under(bytes(value)) is None
            ]
            texts = keyring.decrypt_many(session, tenant_id, [sealed for _, sealed in old]) if old else []
            kept = [
                (digest, sealed, text)
                for (digest, sealed), text in zip(old, texts, strict=True)
                if text is not None
            ]
            again = keyring.encrypt_many(
                session,
                [Plaintext(tenant_id, sealed.pseudonym, sealed.row, text) for _, sealed, text in kept],
                now=now,
            )
            if kept:
                session.connection().execute(
                    update(_TABLE)
                    .where(_TABLE.c.event_digest == bindparam("digest"))
                    .values(ciphertext=bindparam("sealed")),
                    [
                        {"digest": digest, "sealed": value}
                        for (digest, _, _), value in zip(kept, again, strict=True)
                    ],
                )
            done += len(kept)
        if len(read) < AT_ONCE:
            return done
        after = (read[-1][0], read[-1][1], bytes(read[-1][2]))


def _after(place: tuple[Any, Any, Any], after: tuple[str, int, bytes]) -> ColumnElement[bool]:
    """Say what comes behind a place in the order of the index, in words that both databases know."""
    name, period, digest = place
    same_name = and_(name == after[0], period > after[1])
    same_period = and_(name == after[0], period == after[1], digest > after[2])
    return or_(name > after[0], same_name, same_period)
