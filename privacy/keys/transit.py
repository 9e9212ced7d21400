"""``KeyService`` over the transit engine of HashiCorp Vault or OpenBao: the master key never leaves that server.

The same HTTP API in both (API documentation of the transit secrets engine): ``POST MOUNT/encrypt/KEY``, ``POST
MOUNT/decrypt/KEY``, ``GET MOUNT/keys/KEY``, ``POST MOUNT/keys/KEY/rotate``, with ``associated_data``, which needs a
key of an authenticated type (``aes256-gcm96``, the default, or ``chacha20-poly1305``). A wrapped value is one byte 3
and the server's ciphertext, ``vault:v<version>:…``.

What was wrapped by a master key in the settings stays readable where that is given as ``earlier``; so an
installation moves here by a rotation of the master key, and back the same way.
"""

from __future__ import annotations

import base64
import binascii
import re
import ssl
from typing import TYPE_CHECKING, Any, Final

import httpx

from privacy.errors import KeyServiceError, KeyUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from privacy.keys.service import MasterKeys

_FORM: Final = b"\x03"
_CIPHERTEXT = re.compile(r"vault:v([0-9]{1,9}):[A-Za-z0-9+/=]+")


class TransitKeys:
    """``KeyService`` of one named key of a transit engine; safe to share between threads.

    Args:
        url: of the server, ``https://vault.example.com:8200``.
        token: returns the token; asked for each request, because tokens are renewed outside.
        key: name of the key in the engine.
        mount: path of the engine.
        namespace: of the key, in editions that have them.
        ca_file: certificate authorities to trust instead of the system's.
        timeout_seconds: for one request.
        earlier: opens what it wrapped before this server did.
        client: for tests; made from the others by default.
    """

    def __init__(
        self,
        *,
        url: str,
        token: Callable[[], str],
        key: str,
        mount: str = "transit",
        namespace: str | None = None,
        ca_file: str | None = None,
        timeout_seconds: float = 10.0,
        earlier: MasterKeys | None = None,
        client: httpx.Client | None = None,
    ) -> None:
        self._token = token
        self._key = key
        self._mount = mount.strip("/")
        self._headers = {"X-Vault-Request": "true"} | ({"X-Vault-Namespace": namespace} if namespace else {})
        self._earlier = earlier
        self._client = client or httpx.Client(
            base_url=url, timeout=timeout_seconds, verify=_trusted(ca_file), trust_env=False
        )

    def wrap(self, secret: bytes, context: bytes) -> bytes:
        """Return ``secret`` wrapped with the key's newest version."""
        said = self._ask("POST", f"encrypt/{self._key}", _encoded(plaintext=secret, associated_data=context))
        ciphertext = str(said.get("ciphertext"))
        if not _CIPHERTEXT.fullmatch(ciphertext):
            raise KeyServiceError(
                "the key service answered with a ciphertext of an unknown form; nothing was stored"
            )
        return _FORM + ciphertext.encode()

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """Return the secret, whichever version of the key wrapped it."""
        if wrapped[:1] != _FORM:
            if self._earlier is None:
                raise KeyUnavailableError(
                    "a key was wrapped by a master key of the settings and none is set; put it into DISCREET_MASTER_KEY"
                )
            return self._earlier.unwrap(wrapped, context)
        ciphertext = self._ciphertext(wrapped)
        said = self._ask(
            "POST", f"decrypt/{self._key}", {"ciphertext": ciphertext, **_encoded(associated_data=context)}
        )
        try:
            return base64.b64decode(said["plaintext"], validate=True)
        except (KeyError, TypeError, binascii.Error) as error:
            raise KeyServiceError("the key service answered without a plaintext") from error

    def wrapped_by(self, wrapped: bytes) -> str:
        """Return the name of the key with its version, such as ``transit/discreet:v2``."""
        if wrapped[:1] != _FORM:
            return "settings" if self._earlier is None else self._earlier.wrapped_by(wrapped)
        found = _CIPHERTEXT.fullmatch(self._ciphertext(wrapped))
        return self._version(int(found.group(1)) if found else 0)

    def newest(self) -> str:
        """Return the name of the key with its newest version."""
        version = self._ask("GET", f"keys/{self._key}").get("latest_version")
        if not isinstance(version, int):
            raise KeyServiceError("the key service did not say which version of the key is the newest")
        return self._version(version)

    def rotate(self) -> str:
        """Make a new version of the key in the server and return its name."""
        self._ask("POST", f"keys/{self._key}/rotate", {})
        return self.newest()

    def close(self) -> None:
        """Close connections."""
        self._client.close()

    def _version(self, number: int) -> str:
        return f"{self._mount}/{self._key}:v{number}"

    def _ciphertext(self, wrapped: bytes) -> str:
        try:
            text = wrapped[1:].decode("ascii")
        except UnicodeDecodeError:
            text = ""
        if not _CIPHERTEXT.fullmatch(text):
            raise KeyUnavailableError(
                "a wrapped key has an unknown form; it was changed or written by a newer version"
            )
        return text

    def _ask(self, method: str, path: str, body: dict[str, str] | None = None) -> dict[str, Any]:
        """Return the ``data`` of the answer.

        Raises:
            KeyUnavailableError: the server says that the value does not open (400).
            KeyServiceError: the server does not answer, is sealed, or refuses the token. The text holds nothing of the
                answer's, which may repeat what was asked.
        """
        headers = {**self._headers, "X-Vault-Token": self._token()}
        try:
            answer = self._client.request(method, f"/v1/{self._mount}/{path}", json=body, headers=headers)
        except httpx.HTTPError as error:
            raise KeyServiceError(
                f"the key service did not answer ({type(error).__name__}); check that DISCREET_KEYS__TRANSIT_URL "
                "is its address and that it runs"
            ) from error
        if answer.status_code == httpx.codes.BAD_REQUEST and path.startswith("decrypt/"):
            raise KeyUnavailableError(
                "the key service cannot open a wrapped key: another key wrapped it, or it was changed or moved"
            )
        if not answer.is_success:
            raise KeyServiceError(
                f"the key service refused with status {answer.status_code}; check that its engine and key exist and "
                "that the token may encrypt, decrypt, read and rotate that key"
            )
        try:
            said = answer.json() if answer.content else {}
        except ValueError as error:
            raise KeyServiceError("the key service answered with something that is not JSON") from error
        data = said.get("data") if isinstance(said, dict) else None
        return data if isinstance(data, dict) else {}


def _trusted(ca_file: str | None) -> ssl.SSLContext | bool:
    return True if ca_file is None else ssl.create_default_context(cafile=ca_file)


def _encoded(**values: bytes) -> dict[str, str]:
    return {name: base64.b64encode(value).decode() for name, value in values.items()}
