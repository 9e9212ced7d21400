"""Read the public keys that a process is told to trust from its settings."""

from __future__ import annotations

from streams.errors import SettingsError


def keys_in(text: str) -> list[bytes]:
    """Return the raw keys of a comma-separated list of hexadecimal keys.

    Raises:
        SettingsError: the list is empty or a key is not 32 bytes in hexadecimal.
    """
    try:
        keys = [bytes.fromhex(part.strip()) for part in text.split(",") if part.strip()]
    except ValueError:
        keys = []
    if not keys or any(len(key) != 32 for key in keys):
        raise SettingsError(
            "DISCREET_SERVING__PUBLIC_KEYS is not usable; allowed are 64 hexadecimal digits per key, "
            "separated by commas"
        )
    return keys
