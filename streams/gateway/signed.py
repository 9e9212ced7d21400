"""Whether what the database holds was signed by a key that we trust, for the line that it is used for."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from streams.client.signatures import key_id, verify

if TYPE_CHECKING:
    from collections.abc import Sequence


def vouched(keys: Sequence[bytes], name: str, signature: str, message: bytes) -> bool:
    """Say whether one of some keys signed a message.

    Args:
        keys: raw public keys.
        name: short name of the key that is said to have signed.
        signature: base64.
        message: what was signed.
    """
    try:
        raw = base64.b64decode(signature, validate=True)
    except ValueError:
        return False
    return any(key_id(key) == name and verify(key, raw, message) for key in keys)
