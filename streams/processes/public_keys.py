"""The public keys that a server is told to trust; it does not start without one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streams.errors import SettingsError

if TYPE_CHECKING:
    from streams.settings import TrustingSettings


def required_keys(*sections: TrustingSettings) -> list[bytes]:
    """Return the raw keys, 32 bytes each, of the first section that names any.

    Raises:
        SettingsError: none does.
    """
    for section in sections:
        if keys := section.trusted_keys():
            return keys
    raise SettingsError(
        "no public key is set; put what `discreet adapters public-key` prints into DISCREET_SERVING__PUBLIC_KEYS"
    )
