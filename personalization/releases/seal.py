"""The sealed snapshot: what a round trains on, stored with its draw, so that a repeat depends on the draw alone.

*What it holds*: the redacted texts of the round's users as training sees them, in their order and without any
identifier, and their digest. It is encrypted (AES-256-GCM) under a key that is derived from the round's secret seed,
which itself is stored wrapped by a key of the round in the key store. The users' own keys do not protect it: a user
who is erased or withdraws while a round is open stays in that round's snapshot.

*Until when*: it is written in the transaction that records the draw and destroyed, with the seed, in the one that
closes the round however it ends; a round that is still open at the end of its public slot is closed then. What a crash
after the draw leaves to do is therefore the same whoever left, joined or was erased in the meantime. The round's key is
destroyed soon after (``personalization.rounds.seed_keys``). A backup of the database that was taken meanwhile holds the
snapshot, readable with the master key for as long as a backup of the key store holds the round's key, and no longer.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

from personalization.errors import RoundSealError
from personalization.rounds import queries as rounds
from personalization.signals.snapshot import TrainingSnapshot
from privacy.errors import KeyUnavailableError
from privacy.keys.envelope import Cipher, associated
from privacy.noise.keystream import KeyUse, derive_key

if TYPE_CHECKING:
    from sqlmodel import Session

PART_BYTES: Final = 1 << 24  # of plaintext in one row; databases take whole rows into memory


def seal(session: Session, round_id: str, snapshot: TrainingSnapshot, seed: bytes) -> None:
    """Store the snapshot of a round, in the transaction that records its draw."""
    cipher = Cipher(derive_key(seed, KeyUse.SEAL))
    data = zlib.compress(snapshot.to_bytes(), level=1)
    parts = [data[start : start + PART_BYTES] for start in range(0, len(data), PART_BYTES)]
    rounds.keep_sealed(
        session,
        round_id,
        [cipher.seal(part, _place(round_id, number, len(parts))) for number, part in enumerate(parts)],
    )


def unseal(session: Session, round_id: str, seed: bytes) -> TrainingSnapshot:
    """Return the snapshot that was stored with the round's draw.

    Raises:
        RoundSealError: it is missing, damaged or another round's; the round cannot be repeated.
    """
    sealed = rounds.sealed_parts(session, round_id)
    if not sealed:
        raise RoundSealError("the round has no sealed snapshot; it cannot be repeated")
    cipher = Cipher(derive_key(seed, KeyUse.SEAL))
    try:
        parts = [
            cipher.open(part, _place(round_id, number, len(sealed))) for number, part in enumerate(sealed)
        ]
    except KeyUnavailableError as error:
        raise RoundSealError("the round's sealed snapshot does not open; it cannot be repeated") from error
    return TrainingSnapshot.from_bytes(zlib.decompress(b"".join(parts)))


def _place(round_id: str, part: int, parts: int) -> bytes:
    return associated("training snapshot", round_id, str(part), str(parts))
