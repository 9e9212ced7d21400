"""Queries over adapter lines and versions; every query of a tenant's rows names the tenant or the line."""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING, Any

from sqlmodel import col, select

from personalization.adapters.manifest import AdapterManifest, AdapterVersion, Signature, VersionState
from personalization.errors import LineNotFoundError, VersionNotFoundError
from personalization.registry.tables import AdapterLineRow, AdapterVersionRow
from privacy.policy.versions import lock_tenant

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from datetime import datetime

    from sqlmodel import Session


IDS_PER_STATEMENT = 500


def find_line(session: Session, tenant_id: str, domain: str) -> AdapterLineRow | None:
    """Return the line of a tenant's domain, if a round was ever opened for it."""
    return session.exec(
        select(AdapterLineRow).where(AdapterLineRow.tenant_id == tenant_id, AdapterLineRow.domain == domain)
    ).one_or_none()


def ensure_line(session: Session, tenant_id: str, domain: str, *, now: datetime) -> AdapterLineRow:
    """Return the line, made on first use."""
    row = find_line(session, tenant_id, domain)
    if row is not None:
        return row
    lock_tenant(session, tenant_id)  # so two processes never make two lines
    return ensure_line_of_nobody(session, tenant_id, domain, now=now)


def ensure_line_of_nobody(session: Session, owner: str, domain: str, *, now: datetime) -> AdapterLineRow:
    """Return the line of an owner that is no tenant, made on first use (the unique constraint keeps it single).

    Its public name is random, so it tells no owner and no domain.
    """
    row = find_line(session, owner, domain)
    if row is None:
        row = AdapterLineRow(line_ref=secrets.token_hex(6), tenant_id=owner, domain=domain, created_at=now)
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


def list_lines(session: Session) -> Sequence[AdapterLineRow]:
    """Return every line, in no order."""
    return session.exec(select(AdapterLineRow)).all()


def line_names(session: Session) -> list[tuple[str, str, str]]:
    """Return (owner, domain, line) of every line, in no order."""
    return list(
        session.exec(select(AdapterLineRow.tenant_id, AdapterLineRow.domain, AdapterLineRow.line_ref)).all()
    )


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


def newest_with_style(session: Session, tenant_id: str, domain: str) -> AdapterVersion | None:
    """Return the newest version of a tenant's line that carries a style card and was not withdrawn, if there is one."""
    rows = [row for row in list_versions(session, tenant_id=tenant_id) if row.domain == domain]
    for row in reversed(rows):
        if row.state != VersionState.WITHDRAWN.value and "style" in json.loads(row.manifest_json):
            return read_version(row)
    return None


def audits_of(session: Session, tenant_id: str) -> dict[str, dict[str, Any]]:
    """Return what canaries showed of each release of a tenant, by reservation; those without are left out."""
    found = {}
    for row in list_versions(session, tenant_id=tenant_id):
        audit = json.loads(row.manifest_json)["privacy"].get("audit")
        if audit is not None and row.reservation_id is not None:
            found[row.reservation_id] = audit
    return found


def live_names(session: Session, tenant_id: str) -> list[str]:
    """Return the served names of a tenant's versions that are served, may be, or could be rolled back to."""
    live = (VersionState.CANDIDATE.value, VersionState.PUBLISHED.value, VersionState.SUPERSEDED.value)
    return list(
        session.exec(
            select(AdapterVersionRow.served_name).where(
                AdapterVersionRow.tenant_id == tenant_id, col(AdapterVersionRow.state).in_(live)
            )
        )
    )


def versions_of_owners(session: Session, prefix: str) -> Sequence[AdapterVersionRow]:
    """Return the versions of every owner whose name begins so, of each line the oldest first."""
    return session.exec(
        select(AdapterVersionRow)
        .where(col(AdapterVersionRow.tenant_id).startswith(prefix))
        .order_by(col(AdapterVersionRow.line_ref), col(AdapterVersionRow.version))
    ).all()


def started_from(session: Session, version_ids: Collection[str]) -> Sequence[AdapterVersionRow]:
    """Return the versions that started from one of these and are not withdrawn."""
    return session.exec(
        select(AdapterVersionRow).where(
            col(AdapterVersionRow.start_version_id).in_(version_ids),
            AdapterVersionRow.state != VersionState.WITHDRAWN.value,
        )
    ).all()


def served_starts(session: Session) -> dict[str, tuple[str, str | None]]:
    """Return what stands behind every version that somebody is served: its reservation, and what it started from."""
    rows = session.exec(
        select(
            AdapterVersionRow.version_id,
            AdapterVersionRow.reservation_id,
            AdapterVersionRow.start_version_id,
        ).where(
            col(AdapterVersionRow.state).in_((VersionState.CANDIDATE.value, VersionState.PUBLISHED.value))
        )
    )
    return {version_id: (reservation_id, start) for version_id, reservation_id, start in rows}


def withdrawn_ids(session: Session) -> Sequence[str]:
    """Return the ids of all withdrawn versions."""
    return session.exec(
        select(AdapterVersionRow.version_id).where(AdapterVersionRow.state == VersionState.WITHDRAWN.value)
    ).all()


def registered(session: Session, version_ids: Sequence[str]) -> set[str]:
    """Return those of these ids that belong to a registered version, whatever its state."""
    found: set[str] = set()
    for first in range(0, len(version_ids), IDS_PER_STATEMENT):
        part = version_ids[first : first + IDS_PER_STATEMENT]
        found |= set(
            session.exec(
                select(AdapterVersionRow.version_id).where(col(AdapterVersionRow.version_id).in_(part))
            )
        )
    return found


def get_version(session: Session, version_id: str) -> AdapterVersionRow | None:
    """Return the version of that id, if it is registered; versions are never deleted."""
    return session.get(AdapterVersionRow, version_id)


def current_version(session: Session, line: AdapterLineRow | None) -> AdapterVersionRow | None:
    """Return what a line serves."""
    if line is None or line.current_version_id is None:
        return None
    return get_version(session, line.current_version_id)


def find_version(
    session: Session, name: str, *, tenant_id: str | None = None, shown_at: datetime | None = None
) -> AdapterVersionRow:
    """Return the version of that served name or version id.

    Args:
        session: the caller's transaction.
        name: served name or version id.
        tenant_id: whose; ``None``: anybody's.
        shown_at: one whose slot comes later is as if it were not there; ``None``: it is there.

    Raises:
        VersionNotFoundError: none, it belongs to another tenant, or its slot has not come.
    """
    key = AdapterVersionRow.version_id if name.startswith("sha256:") else AdapterVersionRow.served_name
    query = select(AdapterVersionRow).where(key == name)
    if tenant_id is not None:
        query = query.where(AdapterVersionRow.tenant_id == tenant_id)
    if shown_at is not None:
        query = query.where(AdapterVersionRow.published_at <= shown_at)
    row = session.exec(query).one_or_none()
    if row is None:
        raise VersionNotFoundError(
            f"no adapter version {name!r} is registered; list the versions and copy a name"
        )
    return row


def manifest_documents(session: Session, tenant_id: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield the manifest of every registered version, of one tenant or of all, as its JSON document."""
    query = select(AdapterVersionRow.manifest_json).execution_options(yield_per=1000)
    if tenant_id is not None:
        query = query.where(AdapterVersionRow.tenant_id == tenant_id)
    for text in session.exec(query):
        yield json.loads(text)


def published_reservations(session: Session) -> frozenset[str]:
    """Return every reservation that a registered version names."""
    return frozenset(session.exec(select(AdapterVersionRow.reservation_id).distinct()))


def read_version(row: AdapterVersionRow) -> AdapterVersion:
    """Return the immutable value that a registry row stands for."""
    return AdapterVersion(
        manifest=AdapterManifest.from_bytes(row.manifest_json.encode()),
        version_id=row.version_id,
        uri=row.uri,
        signature=Signature(**json.loads(row.signature_json)),
    )
