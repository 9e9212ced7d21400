"""Queries over adapter lines and versions; every query of a tenant's rows names the tenant or the line."""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING, Any

from sqlmodel import col, select

from personalization.adapters.manifest import AdapterManifest, AdapterVersion, Signature, VersionState
from personalization.errors import LineNotFoundError, VersionNotFoundError
from personalization.registry.tables import AdapterLineRow, AdapterVersionRow
from privacy.policy.tables import TenantRow

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlmodel import Session


def find_line(session: Session, tenant_id: str, domain: str) -> AdapterLineRow | None:
    """Return the line of a tenant's domain, if a round was ever opened for it."""
    return session.exec(
        select(AdapterLineRow).where(AdapterLineRow.tenant_id == tenant_id, AdapterLineRow.domain == domain)
    ).one_or_none()


def ensure_line(session: Session, tenant_id: str, domain: str, *, now: datetime) -> AdapterLineRow:
    """Return the line, made on first use; its public name is random, so it tells no tenant and no domain."""
    row = find_line(session, tenant_id, domain)
    if row is not None:
        return row
    # The tenant's row is locked, so two processes never make two lines.
    session.exec(select(TenantRow).where(TenantRow.tenant_id == tenant_id).with_for_update()).one()
    row = find_line(session, tenant_id, domain)
    if row is None:
        row = AdapterLineRow(
            line_ref=secrets.token_hex(6), tenant_id=tenant_id, domain=domain, created_at=now
        )
        session.add(row)
        session.flush()
    return row


def lock_line(session: Session, line_ref: str) -> AdapterLineRow:
    """Return the line, locked until the transaction ends (rounds are locked before lines, always).

    Raises:
        LineNotFoundError: no such line.
    """
    row = session.exec(
        select(AdapterLineRow)
        .where(AdapterLineRow.line_ref == line_ref)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).one_or_none()
    if row is None:
        raise LineNotFoundError(f"no adapter line {line_ref!r} exists; list the lines and copy its name")
    return row


def require_line(session: Session, tenant_id: str, domain: str) -> AdapterLineRow:
    """Return the locked line of a tenant's domain.

    Raises:
        LineNotFoundError: no round was ever opened for it.
    """
    row = find_line(session, tenant_id, domain)
    if row is None:
        raise LineNotFoundError(
            f"tenant {tenant_id!r} has no adapter line for domain {domain!r}; open a round first"
        )
    return lock_line(session, row.line_ref)


def versions_of(session: Session, line_ref: str) -> Sequence[AdapterVersionRow]:
    """Return every version of a line, oldest first."""
    return session.exec(
        select(AdapterVersionRow)
        .where(AdapterVersionRow.line_ref == line_ref)
        .order_by(col(AdapterVersionRow.version))
    ).all()


def list_versions(
    session: Session, *, tenant_id: str | None = None, state: VersionState | None = None
) -> Sequence[AdapterVersionRow]:
    """Return registered versions of one tenant, or (for the operator) of all, by line and number."""
    query = select(AdapterVersionRow).order_by(
        col(AdapterVersionRow.tenant_id), col(AdapterVersionRow.domain), col(AdapterVersionRow.version)
    )
    if tenant_id is not None:
        query = query.where(AdapterVersionRow.tenant_id == tenant_id)
    if state is not None:
        query = query.where(AdapterVersionRow.state == state.value)
    return session.exec(query).all()


def audits_of(session: Session, tenant_id: str) -> dict[str, dict[str, Any]]:
    """Return what canaries showed of each release of a tenant, by reservation; those without are left out."""
    found = {}
    for row in list_versions(session, tenant_id=tenant_id):
        audit = json.loads(row.manifest_json)["privacy"].get("audit")
        if audit is not None and row.reservation_id is not None:
            found[row.reservation_id] = audit
    return found


def live_names(session: Session, tenant_id: str) -> list[str]:
    """Return the served names of a tenant's versions that are served or could be rolled back to."""
    live = (VersionState.PUBLISHED.value, VersionState.SUPERSEDED.value)
    return list(
        session.exec(
            select(AdapterVersionRow.served_name).where(
                AdapterVersionRow.tenant_id == tenant_id, col(AdapterVersionRow.state).in_(live)
            )
        )
    )


def current_version(session: Session, tenant_id: str, domain: str) -> AdapterVersionRow | None:
    """Return the version that a tenant's domain is served with; ``None`` where that is the base model."""
    line = find_line(session, tenant_id, domain)
    if line is None or line.current_version_id is None:
        return None
    return session.get(AdapterVersionRow, line.current_version_id)


def find_version(session: Session, name: str, *, tenant_id: str | None = None) -> AdapterVersionRow:
    """Return the version of that served name or version id.

    Raises:
        VersionNotFoundError: none, or it belongs to another tenant.
    """
    key = AdapterVersionRow.version_id if name.startswith("sha256:") else AdapterVersionRow.served_name
    query = select(AdapterVersionRow).where(key == name)
    if tenant_id is not None:
        query = query.where(AdapterVersionRow.tenant_id == tenant_id)
    row = session.exec(query).one_or_none()
    if row is None:
        raise VersionNotFoundError(
            f"no adapter version {name!r} is registered; list the versions and copy a name"
        )
    return row


def read_version(row: AdapterVersionRow) -> AdapterVersion:
    """Return the immutable value that a registry row stands for."""
    return AdapterVersion(
        manifest=AdapterManifest.from_bytes(row.manifest_json.encode()),
        version_id=row.version_id,
        uri=row.uri,
        signature=Signature(**json.loads(row.signature_json)),
    )
