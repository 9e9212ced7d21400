"""Keys and texts as an installation of before the key store has them: nameless envelopes, keys in the database."""

from __future__ import annotations

import os

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlmodel import Session

from privacy.keys.envelope import associated
from privacy.keys.tables import SubjectKeyRow, TenantKeyRow


def sealed_of_old(key, plaintext, *context):
    nonce = os.urandom(12)
    return b"\x01" + nonce + AESGCM(key).encrypt(nonce, plaintext, associated(*context))


class OldInstallation:
    """Writes tenants' and users' keys beside their texts, as version 0.1.0 did."""

    def __init__(self, session: Session, master_key: bytes, tenant_id: str, now):
        self._session, self._tenant_id, self._now = session, tenant_id, now
        self.tenant_key, self.pseudonym_key = os.urandom(32), os.urandom(32)
        session.add(
            TenantKeyRow(
                tenant_id=tenant_id,
                wrapped_pseudonym_key=sealed_of_old(
                    master_key, self.pseudonym_key, "tenant-pseudonyms", tenant_id
                ),
                wrapped_key=sealed_of_old(master_key, self.tenant_key, "tenant-key", tenant_id),
                erasures=0,
                created_at=now,
            )
        )
        session.flush()

    def user(self, pseudonym):
        """Give a user a key and return it; ``wrapped`` of the row is what a dump holds."""
        key = os.urandom(32)
        wrapped = sealed_of_old(self.tenant_key, key, "user-key", self._tenant_id, pseudonym)
        self._session.add(
            SubjectKeyRow(
                tenant_id=self._tenant_id, pseudonym=pseudonym, wrapped_key=wrapped, created_at=self._now
            )
        )
        return key

    def erased(self, pseudonym):
        """Leave the mark of an erased user."""
        self._session.add(
            SubjectKeyRow(
                tenant_id=self._tenant_id, pseudonym=pseudonym, created_at=self._now, destroyed_at=self._now
            )
        )

    def text(self, key, pseudonym, plaintext):
        """Return a text of the user's, sealed as it was."""
        return sealed_of_old(key, plaintext, "user-data", self._tenant_id, pseudonym)
