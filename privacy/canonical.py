"""The one canonical JSON: sorted keys, no white space, no NaN; and its SHA-256 digest.

Two spellings of letters beyond ASCII exist, each frozen by what was hashed with it:

* as themselves, in UTF-8: manifests, signatures and base models (also at the client, which has a copy of its
  own), code and recipe digests, the audit trail;
* escaped (``ascii_only``): the ledger, policies and training plans.
"""

from __future__ import annotations

import hashlib
import json


def canonical_text(value: object, *, ascii_only: bool = False) -> str:
    """Return the one text of a JSON value.

    Args:
        value: anything that JSON can hold.
        ascii_only: spell letters beyond ASCII as escapes; see the module for who does.

    Raises:
        ValueError: the value holds a NaN or an infinity.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=ascii_only, allow_nan=False)


def canonical_json(value: object, *, ascii_only: bool = False) -> bytes:
    """Return the one byte string that is hashed and signed for a JSON value; see ``canonical_text``."""
    return canonical_text(value, ascii_only=ascii_only).encode()


def sha256_digest(data: bytes) -> str:
    """Return ``sha256:`` and 64 hex digits."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def digest_of(value: object, *, ascii_only: bool = False) -> str:
    """Return the ``sha256:`` digest of a value's canonical JSON; see ``canonical_text``."""
    return sha256_digest(canonical_json(value, ascii_only=ascii_only))
