"""The key service: what holds the master key and wraps with it the few keys that everything else hangs on.

``KeyService`` is the port. ``MasterKeys`` is the one that has the master key in memory, from the settings;
``privacy.keys.transit.TransitKeys`` asks a HashiCorp Vault or OpenBao server, which never gives its key away.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Protocol

from privacy.errors import KeyRotationError, KeyUnavailableError
from privacy.keys.envelope import Cipher, new_key, sealed_under

if TYPE_CHECKING:
    from collections.abc import Sequence


class KeyService(Protocol):
    """Wraps keys with a master key that has versions; what an older version wrapped stays readable."""

    def wrap(self, secret: bytes, context: bytes) -> bytes:
        """Return ``secret`` wrapped with the newest version, bound to ``context``.

        Raises:
            KeyServiceError: the service does not answer or refuses.
        """

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """Return what ``wrap`` wrapped, with whichever version that was.

        Raises:
            KeyUnavailableError: it was wrapped by a key that is not known here, for another context, or changed.
            KeyServiceError: the service does not answer or refuses.
        """

    def wrapped_by(self, wrapped: bytes) -> str:
        """Return the name of the version that wrapped it, without opening it."""

    def newest(self) -> str:
        """Return the name of the version that ``wrap`` uses.

        Raises:
            KeyServiceError: the service does not answer or refuses.
        """

    def rotate(self) -> str:
        """Make a new version, use it from now on, and return its name.

        Raises:
            KeyRotationError: this service gets its new key another way; the text says which.
            KeyServiceError: the service does not answer or refuses.
        """

    def close(self) -> None:
        """Close connections."""


class MasterKeys:
    """``KeyService`` with master keys in memory.

    Args:
        newest: 32 bytes, or their base64 text; wraps.
        older: keys that wrapped before; they only unwrap.
    """

    def __init__(self, newest: bytes | str, older: Sequence[bytes | str] = ()) -> None:
        self._newest = Cipher(_decoded(newest))
        self._known = {cipher.key_id: cipher for cipher in (Cipher(_decoded(key)) for key in older)}
        self._known[self._newest.key_id] = self._newest

    def wrap(self, secret: bytes, context: bytes) -> bytes:
        """Return ``secret`` wrapped with the newest master key."""
        return self._newest.seal(secret, context)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """Return the secret, opened with the key that the value names; a nameless one with whichever key opens it."""
        name = sealed_under(wrapped)
        if name is not None:
            cipher = self._known.get(name)
            if cipher is None:
                raise KeyUnavailableError(
                    f"a key was wrapped by the master key {name.hex()}, which is not configured; put it into "
                    "DISCREET_MASTER_KEY, or into DISCREET_KEYS__OLDER_MASTER_KEYS"
                )
            return cipher.open(wrapped, context)
        for cipher in self._known.values():
            try:
                return cipher.open(wrapped, context, nameless=context)
            except KeyUnavailableError as error:
                failed = error
        raise failed

    def wrapped_by(self, wrapped: bytes) -> str:
        """Return the name of the master key in hexadecimal; of a nameless value ``unnamed``."""
        name = sealed_under(wrapped)
        return "unnamed" if name is None else name.hex()

    def newest(self) -> str:
        """Return the name of the newest master key."""
        return self._newest.key_id.hex()

    def rotate(self) -> str:
        """Refuse: the settings bring the new key."""
        raise KeyRotationError(
            "the master key comes from the settings: put a new one into DISCREET_MASTER_KEY of every process and the "
            "old one into DISCREET_KEYS__OLDER_MASTER_KEYS, restart them, and rotate again to wrap everything with it"
        )

    def close(self) -> None:
        """Do nothing: there are no connections."""


def new_master_key() -> str:
    """Return a new master key as the base64 text that the settings take."""
    return base64.b64encode(new_key()).decode()


def _decoded(master_key: bytes | str) -> bytes:
    if isinstance(master_key, bytes):
        return master_key
    try:
        return base64.b64decode(master_key, validate=True)
    except binascii.Error as error:
        raise KeyUnavailableError("the master key is not base64; give 32 random bytes in base64") from error
