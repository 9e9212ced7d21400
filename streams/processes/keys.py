"""Wire keys from the settings: the key service, the key store, the keyring, and who signs what.

Three kinds of things are signed, with three keys. Adapter versions, and what their lines are to serve, are signed with
a key that trainers and the commands that change lines load from its own setting or file. Erasure certificates are
signed by workers with a key of the key store, and records of the anchor with another one there
(``streams.anchor.opening``). So whoever takes over a worker can sign no adapter.
"""

from __future__ import annotations

import base64
import binascii
import os
import secrets
from functools import cached_property
from typing import TYPE_CHECKING, Final

from personalization.adapters.signing import ManifestSigner, key_id, signing_seed
from personalization.memory.sealing import MemoryKeys
from privacy.keys.kept import kept_seed
from privacy.keys.keyring import Keyring
from privacy.keys.service import MasterKeys
from privacy.keys.store import open_store
from privacy.keys.transit import TransitKeys
from streams.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from personalization.adapters.manifest import Signature
    from privacy.keys.service import KeyService
    from privacy.keys.store import KeyStore
    from streams.settings import KeySettings, Settings

SEED_BYTES: Final = 32
CERTIFICATE_KEY: Final = "certificate signing key"


def key_service(settings: Settings) -> KeyService:
    """Return what holds the master key.

    Raises:
        SettingsError: no master key and no server that has one is set.
    """
    keys = settings.keys
    if not keys.transit_url:
        return MasterKeys(settings.master_key_bytes(), keys.older_keys())
    given = settings.master_keys()
    return TransitKeys(
        url=keys.transit_url,
        token=_token_of(keys),
        key=keys.transit_key,
        mount=keys.transit_mount,
        namespace=keys.transit_namespace,
        ca_file=None if keys.transit_ca_file is None else str(keys.transit_ca_file),
        earlier=MasterKeys(given[0], given[1:]) if given else None,
    )


def _token_of(keys: KeySettings) -> Callable[[], str]:
    def token() -> str:
        if keys.transit_token is not None:
            return keys.transit_token.get_secret_value()
        try:
            return (
                "" if keys.transit_token_file is None else keys.transit_token_file.read_text("utf-8").strip()
            )
        except OSError as error:
            raise SettingsError(
                "the file that DISCREET_KEYS__TRANSIT_TOKEN_FILE names cannot be read; check that it is there"
            ) from error

    return token


def open_key_store(settings: Settings) -> KeyStore:
    """Return the configured key store; a SQLite file's directory is made where it is the default.

    Raises:
        SettingsError: it must be set, or names the database of the texts.
    """
    url = settings.key_store_url
    if not settings.keys.url and not settings.database.url:
        settings.state.mkdir(parents=True, exist_ok=True)
    return open_store(url, busy_timeout_seconds=settings.database.busy_timeout_seconds)


def open_keyring(settings: Settings) -> Keyring:
    """Return the keyring over the configured key service and key store.

    Raises:
        SettingsError: no master key is set, or no key store.
    """
    service = key_service(settings)
    return Keyring(service, open_key_store(settings))


class CertificateSigner:
    """Signs erasure certificates with a key of the key store that all workers share, made at first use."""

    def __init__(self, keyring: Keyring, clock: Callable[[], datetime]) -> None:
        self._keyring = keyring
        self._clock = clock

    @cached_property
    def _signer(self) -> ManifestSigner:
        return ManifestSigner(kept_seed(self._keyring, CERTIFICATE_KEY, self._clock()))

    @property
    def public_key(self) -> bytes:
        """The raw public key that verifies the certificates."""
        return self._signer.public_key

    def sign_bytes(self, payload: bytes) -> Signature:
        """Return the signature of a certificate's bytes.

        Raises:
            KeyUnavailableError: the key cannot be had now.
            StorageError: the key store cannot be reached.
        """
        return self._signer.sign_bytes(payload)


def adapter_signer(settings: Settings) -> ManifestSigner:
    """Return what signs adapter versions: the key of the settings, or of its file, which is made at first use.

    Raises:
        SettingsError: the file cannot be read or made, others may read it, or it holds no key.
    """
    if settings.signing.adapter_key is not None:
        return ManifestSigner(base64.b64decode(settings.signing.adapter_key.get_secret_value()))
    return ManifestSigner(_kept_key(settings.adapter_key_file, "the key that adapters are signed with"))


def memory_keys(settings: Settings) -> MemoryKeys:
    """Return what seals documents: the key of the settings, or of its file, which is made at first use.

    Raises:
        SettingsError: the file cannot be read or made, others may read it, or it holds no key.
    """
    given = settings.memory.key
    if given is not None:
        newest = base64.b64decode(given.get_secret_value())
    else:
        newest = _kept_key(settings.memory_key_file, "the key that documents are sealed with")
    return MemoryKeys(newest, settings.memory.older())


def _kept_key(path: Path, what: str) -> bytes:
    """Return the key in a file, which is made at first use for who owns it alone."""
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            # Not by the process's number: in containers that share a folder all have the same.
            made = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
            with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(base64.b64encode(secrets.token_bytes(SEED_BYTES)).decode() + "\n")
            try:
                os.link(made, path)  # whoever was first counts
            except FileExistsError:
                pass
            finally:
                made.unlink()
        if path.stat().st_mode & 0o077:
            raise SettingsError(f"others may read {path}, {what}; make it mode 600")
        key = base64.b64decode(path.read_text("ascii").strip(), validate=True)
    except (OSError, UnicodeDecodeError, binascii.Error) as error:
        raise SettingsError(
            f"{what} cannot be read from or made at {path}; allowed are 32 bytes in base64"
        ) from error
    if len(key) != SEED_BYTES:
        raise SettingsError(f"{path} holds {len(key)} bytes; allowed are exactly {SEED_BYTES} in base64")
    return key


def trusted_keys(settings: Settings) -> list[bytes]:
    """Return the raw public keys whose signatures of this installation count: the signing key's, and earlier ones."""
    earlier = [bytes.fromhex(one) for one in earlier_public_keys(settings).values()]
    return [adapter_signer(settings).public_key, *earlier]


def known_public_keys(settings: Settings) -> list[bytes]:
    """Return the raw public keys that this machine knows to sign for the installation; it makes none.

    A worker has no signing key, and is told its public half by ``DISCREET_SERVING__PUBLIC_KEYS``.

    Raises:
        SettingsError: the file of a signing key that lies here cannot be used.
    """
    told = settings.serving.trusted_keys()
    if settings.signing.adapter_key is not None or settings.adapter_key_file.exists():
        told = [adapter_signer(settings).public_key, *told]
    return [*told, *(bytes.fromhex(one) for one in earlier_public_keys(settings).values())] if told else []


def earlier_public_keys(settings: Settings) -> dict[str, str]:
    """Return (key id → public key in hexadecimal) of keys that signed adapters once: those of the master keys.

    Until 0.1.0 the signing key was derived from the master key; what it signed stays valid for servers that trust it.
    """
    found = [ManifestSigner(signing_seed(key)).public_key for key in settings.master_keys()]
    return {key_id(public): public.hex() for public in found}
