"""What looks at reactions released: stored once, signed for the charge and the look that they belong to, and read back.

The key that signs is made from the comparison's secret seed, and its public half stands in the reservation's entry of
the ledger's chain. So sums that were changed, or moved to another look or another comparison, are found before anything
is decided from them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from sqlmodel import col, select

from personalization.rollouts.tables import LookRow
from privacy.canonical import canonical_json
from privacy.mechanisms.noisy_comparison import Sums
from privacy.noise.keystream import KeyUse, derive_key

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlmodel import Session

    from privacy.ledger import Reservation


def public_key(seed: bytes) -> str:
    """Return the raw public half, as hex digits, of the key that signs the looks of a comparison."""
    return _key(seed).public_key().public_bytes_raw().hex()


def taken(session: Session, candidate_version_id: str) -> Sequence[LookRow]:
    """Return the looks of a comparison that are over, first look first; those without sums were lost."""
    return session.exec(
        select(LookRow)
        .where(LookRow.candidate_version_id == candidate_version_id)
        .order_by(col(LookRow.look))
    ).all()


def store(
    session: Session,
    candidate_version_id: str,
    reservation_id: str,
    look: int,
    sums: Sums,
    seed: bytes,
    now: datetime,
) -> None:
    """Store what a look told; whoever asks again reads this, and the database refuses a second one."""
    session.add(
        LookRow(
            candidate_version_id=candidate_version_id,
            look=look,
            **sums._asdict(),
            signature=_key(seed).sign(_signed(reservation_id, look, sums)),
            taken_at=now,
        )
    )
    session.flush()


def lose(session: Session, candidate_version_id: str, look: int, now: datetime) -> None:
    """Note that a look was bought and told nothing; it is never taken again."""
    session.add(LookRow(candidate_version_id=candidate_version_id, look=look, taken_at=now))
    session.flush()


def released(session: Session, candidate_version_id: str, reservation: Reservation) -> list[Sums] | None:
    """Return the sums of the looks that were not lost, first look first.

    ``None`` where any is not what was signed for this charge and look; then nothing may be decided from them.
    """
    found = []
    for row in taken(session, candidate_version_id):
        sums = sums_of(row)
        if sums is None:
            continue
        if not is_signed(row, sums, reservation):
            return None
        found.append(sums)
    return found


def is_signed(row: LookRow, sums: Sums, reservation: Reservation) -> bool:
    """Say whether the sums of a look are those that were signed for this charge and look."""
    key = "" if reservation.binding is None else reservation.binding.receipt_key
    signed = _signed(reservation.reservation_id, row.look, sums)
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(row.signature or b"", signed)
    except (InvalidSignature, ValueError):
        return False
    return True


def sums_of(row: LookRow) -> Sums | None:
    """Return what a look told, ``None`` where it was lost."""
    if row.effect is None or row.square is None or row.users is None or row.sign is None:
        return None
    return Sums(row.effect, row.square, row.users, row.sign)


def _key(seed: bytes) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(derive_key(seed, KeyUse.LOOKS))


def _signed(reservation_id: str, look: int, sums: Sums) -> bytes:
    return canonical_json({"reservation_id": reservation_id, "look": look, "sums": list(sums)})
