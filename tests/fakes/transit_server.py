"""The transit engine's HTTP API as documented, in memory, and access to a real OpenBao for the same tests."""

from __future__ import annotations

import base64
import json
import os
import secrets

import httpx
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

OPENBAO = os.environ.get("DISCREET_TEST_BAO", "")
OPENBAO_TOKEN = "for-tests"


class FakeTransit:
    """Encrypt, decrypt, read and rotate, with versions and associated data, as the transit engine does them.

    ``sealed`` makes it answer 503, as a server does that was not unsealed.
    """

    def __init__(self, mount="transit", key="discreet", token="for-tests"):
        self._mount, self._key, self._token = mount, key, token
        self._versions = [AESGCM(secrets.token_bytes(32))]
        self.sealed = False
        self.asked = []

    def client(self):
        return httpx.Client(base_url="http://127.0.0.1:1", transport=httpx.MockTransport(self._answer))

    def _answer(self, request):
        if self.sealed:
            return _refused(503, "Vault is sealed")
        if request.headers.get("X-Vault-Token") != self._token:
            return _refused(403, "permission denied")
        beginning = f"/v1/{self._mount}/"
        if not request.url.path.startswith(beginning):
            return _refused(404, "no handler for route")
        body = json.loads(request.content) if request.content else {}
        verb = request.method, *request.url.path.removeprefix(beginning).split("/")
        self.asked.append(verb)
        match verb:
            case "POST", "encrypt", self._key:
                return self._encrypted(body)
            case "POST", "decrypt", self._key:
                return self._decrypted(body)
            case "GET", "keys", self._key:
                return _said(
                    {"name": self._key, "latest_version": len(self._versions), "type": "aes256-gcm96"}
                )
            case "POST", "keys", self._key, "rotate":
                self._versions.append(AESGCM(secrets.token_bytes(32)))
                return _said({"latest_version": len(self._versions)})
        return _refused(400, "encryption key not found")

    def _encrypted(self, body):
        nonce = secrets.token_bytes(12)
        plaintext, bound = (base64.b64decode(body.get(name, "")) for name in ("plaintext", "associated_data"))
        sealed = base64.b64encode(nonce + self._versions[-1].encrypt(nonce, plaintext, bound)).decode()
        version = len(self._versions)
        return _said({"ciphertext": f"vault:v{version}:{sealed}", "key_version": version})

    def _decrypted(self, body):
        _, version, sealed = body["ciphertext"].split(":")
        number = int(version.removeprefix("v"))
        if not 0 < number <= len(self._versions):
            return _refused(400, "invalid ciphertext: version is too new")
        raw, bound = base64.b64decode(sealed), base64.b64decode(body.get("associated_data", ""))
        try:
            plaintext = self._versions[number - 1].decrypt(raw[:12], raw[12:], bound)
        except InvalidTag:
            return _refused(400, "cipher: message authentication failed")
        return _said({"plaintext": base64.b64encode(plaintext).decode()})


def _said(data):
    return httpx.Response(200, json={"data": data, "errors": None})


def _refused(status, text):
    return httpx.Response(status, json={"errors": [text]})


def new_openbao_mount():
    """Make a transit engine and a key of its own in the real server and return the mount's name."""
    mount = f"transit-{secrets.token_hex(4)}"
    with httpx.Client(base_url=OPENBAO, headers={"X-Vault-Token": OPENBAO_TOKEN}, timeout=30) as admin:
        admin.post(f"/v1/sys/mounts/{mount}", json={"type": "transit"}).raise_for_status()
        admin.post(f"/v1/{mount}/keys/discreet", json={}).raise_for_status()
    return mount
