"""Populations: the same people under several tenant names share one lifetime budget, from the declaration on.

A tenant *joins* a population once and stays for good. At that moment everything that was ever charged to its lifetime
is charged to the population too, for it was these people's; from then on each of its reservations is. A policy that
names another population, or none, adds to this and takes nothing back: people do not become others by being renamed.
The population's account keeps the caps it was opened with; a member's own lifetime caps narrow it for that member.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlmodel import col, select

from privacy.accounting.calibration import caps_of
from privacy.accounting.curve import RdpCurve
from privacy.accounting.filters import AccountSettings
from privacy.ledger.accounts import (
    check_against_chain,
    curve_in,
    lifetime_account_id,
    locked_accounts,
    open_accounts,
    population_account_id,
    population_target,
    set_curves,
)
from privacy.ledger.chain import EntryKind, append, lock_head
from privacy.ledger.tables import PopulationMemberRow
from privacy.ledger.values import PopulationCap
from privacy.policy import versions as policies

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from datetime import datetime

    from sqlalchemy.sql.dml import Update
    from sqlmodel import Session

    from privacy.accounting.filters import BudgetCaps
    from privacy.ledger.tables import LedgerHeadRow
    from privacy.policy.ceilings import PolicyCeilings
    from privacy.policy.values import TenantPrivacyPolicy
    from privacy.policy.versions import PolicyVersion


def set_policy(
    session: Session,
    tenant_id: str,
    changes: Mapping[str, Any],
    *,
    actor: str,
    reason: str,
    now: datetime,
    ceilings: PolicyCeilings | None = None,
) -> PolicyVersion:
    """Append the next version of a tenant's policy, and join the population that it names.

    Raises:
        UnknownTenantError: no such tenant is registered.
        PolicyError: a value is outside its range, or actor or reason is missing.
        PolicyCeilingError: a value is above ``ceilings``, those of the platform.
    """
    version = policies.set_policy(
        session, tenant_id, changes, actor=actor, reason=reason, now=now, ceilings=ceilings
    )
    join_declared(session, tenant_id, now=now)
    return version


def join_declared(session: Session, tenant_id: str, *, now: datetime) -> None:
    """Join every population that any version of the tenant's policy named."""
    version = policies.current_policy(session, tenant_id)
    declared = policies.declared_populations(session, tenant_id)
    if version is None or not declared:
        return
    missing = declared - memberships(session, tenant_id)
    if missing:
        head = lock_head(session, tenant_id)
        join(session, head, caps_of(version.policy), missing, settings=AccountSettings(), now=now)


def population_of(policy: TenantPrivacyPolicy) -> PopulationCap | None:
    """Return the cap that a policy asks of its population; ``None`` when it names none."""
    return None if policy.population is None else _cap(policy.population, caps_of(policy))


def memberships(session: Session, tenant_id: str) -> set[str]:
    """Return the populations that a tenant has joined."""
    return set(
        session.exec(
            select(PopulationMemberRow.population_id).where(col(PopulationMemberRow.tenant_id) == tenant_id)
        )
    )


def caps_within(
    joined: Collection[str], caps: BudgetCaps, declared: PopulationCap | None
) -> list[PopulationCap]:
    """Return the cap of each population that a reservation is charged to, in the order of their ids.

    Args:
        joined: the populations that its tenant is in.
        caps: the tenant's; its lifetime caps hold where none was declared, as the account was opened with some
            tenant's.
        declared: of the population that its policy names, which it has joined.
    """
    found = {name: _cap(name, caps) for name in joined}
    if declared is not None:
        found[declared.population_id] = declared
    return [found[name] for name in sorted(found)]


def join(
    session: Session,
    head: LedgerHeadRow,
    caps: BudgetCaps,
    populations: Collection[str | PopulationCap],
    *,
    joined: Collection[str] | None = None,
    settings: AccountSettings,
    now: datetime,
) -> None:
    """Make the tenant whose ``head`` is locked a member of ``populations``, with all that it spent before.

    A population that this takes above its cap admits nothing more, of any of its tenants.

    Args:
        session: the caller's open transaction.
        head: of the tenant's chain, locked.
        caps: of the tenant.
        populations: to join.
        joined: those that it is in, where they were read since the head was locked.
        settings: how new accounts are opened.
        now: aware.

    Raises:
        LedgerIntegrityError: the carried spend does not match the chain.
    """
    lifetime_id = lifetime_account_id(head.tenant_id)
    joined = set(memberships(session, head.tenant_id) if joined is None else joined)
    wanted = {cap.population_id: cap for cap in (_cap(one, caps) for one in populations)}
    names = sorted(wanted.keys() - joined)
    if not names:
        return
    # All at once and in the order of their ids, as every verb takes them.
    ids = [lifetime_id, *(population_account_id(name) for name in sorted(joined | set(names)))]
    lifetime = locked_accounts(session, ids).rows.get(lifetime_id)
    carried = RdpCurve.zero() if lifetime is None else curve_in(lifetime)
    if lifetime is not None:
        check_against_chain(session, head, [lifetime])
    for name in names:
        digests: dict[str, str] = {}
        writes: list[Update] = []
        if carried != RdpCurve.zero():
            locked = open_accounts(
                session, head, [population_target(wanted[name])], settings=settings, recipe=carried, now=now
            )
            accounts = list(locked.rows.values())
            check_against_chain(session, head, accounts, locked.entries)
            digests, writes = set_curves(accounts, [curve_in(one) + carried for one in accounts], head)
        append(
            session,
            head,
            kind=EntryKind.POPULATION_JOINED,
            recorded_at=now,
            reservation_id=None,
            document={
                "account": population_account_id(name),
                "carried": carried.to_document(),
                "curve_digests": digests,
            },
            along=writes,
        )
        session.add(
            PopulationMemberRow(tenant_id=head.tenant_id, population_id=name, entry_sequence=head.sequence)
        )
    session.flush()


def _cap(population: str | PopulationCap, caps: BudgetCaps) -> PopulationCap:
    if isinstance(population, PopulationCap):
        return population
    return PopulationCap(population_id=population, epsilon=caps.lifetime_epsilon, delta=caps.lifetime_delta)
