"""Meta starts over a real database: computed from opted-in tenants, served to bare ones, recomputed on withdrawal."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file
from sqlmodel import select

from personalization.adapters.files import WEIGHTS
from personalization.adapters.manifest import Scope, VersionState
from personalization.registry import queries as registry
from personalization.registry import steering
from personalization.registry.announcements import Act, AdapterEventKind
from personalization.registry.tables import AdapterVersionRow
from personalization.registry.withdrawal import withdraw_version
from personalization.rollouts.values import Mode
from personalization.rounds.tables import RoundRow
from personalization.starts.generations import MetaStarts
from personalization.starts.meta_versions import ALL_DOMAINS, META_TENANT
from personalization.starts.recipe import MetaRecipe
from personalization.starts.tables import MetaContributionRow
from privacy.policy import versions as policies
from tests.fakes.training import SharedSubspaceTrainer, Workshop


@pytest.fixture
def workshop(engine, clock, tmp_path):
    shop = Workshop(engine, clock, tmp_path)
    shop.trainer = SharedSubspaceTrainer()
    return shop


def starts_of(workshop, **recipe) -> MetaStarts:
    return MetaStarts(workshop.tools(), recipe=MetaRecipe(**{"outer_rate": 1.0, **recipe}))


def refresh(workshop, **recipe):
    with workshop.session() as session:
        return starts_of(workshop, **recipe).refresh(session, now=workshop.clock.now())


def train(workshop, *tenants, **changes):
    for tenant in tenants:
        workshop.add_tenant(tenant, sharing_opt_in=True, **changes)
        workshop.open_round(tenant)
    process = workshop.process()
    while process.run_once():
        pass


def amend(workshop, tenant, **changes):
    with workshop.session() as session:
        policies.set_policy(session, tenant, changes, actor="test", reason="test", now=workshop.clock.now())


def versions(workshop, tenant_prefix):
    with workshop.session() as session:
        rows = session.exec(select(AdapterVersionRow)).all()
        return [row for row in rows if row.tenant_id.startswith(tenant_prefix)]


def up_factors(workshop, version_id):
    tensors = load_file(workshop.artifacts.open(version_id) / WEIGHTS)
    return {name: values for name, values in tensors.items() if ".lora_B." in name}


def test_a_bare_tenant_is_served_the_exact_mean_of_the_released_adapters(workshop):
    train(workshop, "one", "two", "three")
    workshop.add_tenant("newcomer")
    done = refresh(workshop)
    assert len(done.published) == 1
    assert len(done.served_to) == 1
    (meta,) = versions(workshop, META_TENANT)
    parts = [
        up_factors(workshop, row.version_id)
        for name in ("one", "two", "three")
        for row in versions(workshop, name)
    ]
    mean = {name: np.mean([part[name] for part in parts], axis=0) for name in parts[0]}
    (copy,) = versions(workshop, "newcomer")
    for row in (meta, copy):
        stored = up_factors(workshop, row.version_id)
        for name, values in mean.items():
            np.testing.assert_allclose(stored[name], values, atol=1e-7)
        manifest = registry.read_version(row).manifest
        assert manifest.scope is Scope.META
        assert manifest.privacy.mechanism == "post_processing"
    assert copy.start_version_id == meta.version_id
    announced = {event.tenant_id: event for event in workshop.events.committed}
    assert announced["newcomer"].desired.served_name == copy.served_name
    with workshop.session() as session:
        assert workshop.ledger.spend(session, "newcomer", 0).lifetime_epsilon == 0


def test_a_refresh_that_finds_nothing_new_changes_nothing(workshop):
    train(workshop, "one", "two", "three")
    workshop.add_tenant("newcomer")
    refresh(workshop)
    before = len(workshop.events.committed)
    again = refresh(workshop)
    assert (again.published, again.withdrawn, again.served_to) == ((), (), ())
    assert len(workshop.events.committed) == before


def test_too_few_tenants_make_no_meta_start(workshop):
    train(workshop, "one", "two")
    workshop.add_tenant("newcomer")
    done = refresh(workshop)
    assert done.published == ()
    assert list(done.waiting.values()) == [2]
    assert versions(workshop, "newcomer") == []


def test_only_tenants_that_opted_in_contribute(workshop):
    train(workshop, "one", "two", "three", "four")
    amend(workshop, "four", sharing_opt_in=False)
    refresh(workshop)
    with workshop.session() as session:
        tenants = {row.tenant_id for row in session.exec(select(MetaContributionRow)).all()}
    assert tenants == {"one", "two", "three"}


def test_a_tenant_that_opts_out_is_taken_out_of_the_start_and_of_every_copy(workshop):
    train(workshop, "one", "two", "three", "four")
    workshop.add_tenant("newcomer")
    refresh(workshop)
    (old_copy,) = versions(workshop, "newcomer")
    amend(workshop, "four", sharing_opt_in=False)
    done = refresh(workshop)
    assert old_copy.served_name in done.withdrawn
    states = {row.version: row.state for row in versions(workshop, "newcomer")}
    assert states == {1: VersionState.WITHDRAWN.value, 2: VersionState.PUBLISHED.value}
    remaining = [row for row in versions(workshop, META_TENANT) if row.state == VersionState.PUBLISHED.value]
    with workshop.session() as session:
        rows = session.exec(
            select(MetaContributionRow).where(MetaContributionRow.version_id == remaining[0].version_id)
        ).all()
    assert {row.tenant_id for row in rows} == {"one", "two", "three"}


def test_without_enough_tenants_after_a_withdrawal_the_base_is_served_again(workshop):
    train(workshop, "one", "two", "three")
    workshop.add_tenant("newcomer")
    refresh(workshop)
    amend(workshop, "one", sharing_opt_in=False)
    refresh(workshop)
    assert {row.state for row in versions(workshop, "newcomer")} == {VersionState.WITHDRAWN.value}
    assert {row.state for row in versions(workshop, META_TENANT)} == {VersionState.WITHDRAWN.value}
    with workshop.session() as session:
        assert registry.find_line(session, "newcomer", "default").current_version_id is None


def test_training_starts_from_the_meta_start_and_replaces_the_copy(workshop):
    train(workshop, "one", "two", "three")
    workshop.add_tenant("newcomer", start="meta")
    refresh(workshop)
    workshop.open_round("newcomer")
    workshop.process().run_once()
    copy, own = versions(workshop, "newcomer")
    (meta,) = versions(workshop, META_TENANT)
    assert copy.state == VersionState.SUPERSEDED.value
    assert own.state == VersionState.PUBLISHED.value
    assert registry.read_version(own).manifest.lineage.start == "meta"
    assert own.start_version_id == meta.version_id
    assert refresh(workshop).served_to == ()


def test_a_domain_that_enough_tenants_share_has_a_start_of_its_own(workshop):
    for tenant in ("one", "two", "three"):
        workshop.add_tenant(tenant, sharing_opt_in=True, domains=["legal"])
        workshop.open_round(tenant, "legal")
    process = workshop.process()
    while process.run_once():
        pass
    refresh(workshop)
    assert {row.domain for row in versions(workshop, META_TENANT)} == {"legal", ALL_DOMAINS}


def test_an_average_start_is_made_of_the_lines_own_versions(workshop):
    workshop.add_tenant("one", start="average", planned_releases=4)
    starts = []
    train_job = workshop.trainer.train

    def remember(job, **rest):
        starts.append(job.tenants[0].start_adapter and load_file(job.tenants[0].start_adapter / WEIGHTS))
        return train_job(job, **rest)

    workshop.trainer.train = remember
    for _ in range(3):
        workshop.open_round("one")
        workshop.process().run_once()
    first, second, _ = versions(workshop, "one")
    assert starts[0] is None
    old, new = (up_factors(workshop, row.version_id) for row in (first, second))
    for name, values in new.items():
        np.testing.assert_allclose(starts[2][name], values * 2 / 3 + old[name] / 3, atol=1e-7)
    with workshop.session() as session:
        assert {row.start for row in session.exec(select(RoundRow)).all()} == {"zero", "average"}


def test_a_tenant_is_served_the_meta_start_before_it_has_a_policy(workshop):
    train(workshop, "one", "two", "three")
    with workshop.session() as session:
        policies.register_tenant(session, "bare", actor="test", now=workshop.clock.now())
    refresh(workshop)
    (copy,) = versions(workshop, "bare")
    assert (copy.domain, copy.state) == ("default", VersionState.PUBLISHED.value)
    assert refresh(workshop).served_to == ()
    with workshop.session() as session:
        assert workshop.ledger.spend(session, "bare", 0).reservations == {}


def test_new_releases_make_a_generation_that_goes_on_from_the_one_before(workshop):
    train(workshop, "one", "two", "three")
    refresh(workshop, outer_rate=0.25, max_delta_norm=1e6)
    (first,) = versions(workshop, META_TENANT)
    workshop.open_round("one")
    workshop.process().run_once()
    refresh(workshop, outer_rate=0.25, max_delta_norm=1e6)
    first, second = versions(workshop, META_TENANT)
    lineage = registry.read_version(second).manifest.lineage
    assert (lineage.start, lineage.start_version_id) == ("previous", first.version_id)
    current = [versions(workshop, name)[-1].version_id for name in ("one", "two", "three")]
    mean = {
        name: np.mean([up_factors(workshop, version_id)[name] for version_id in current], axis=0)
        for name in up_factors(workshop, first.version_id)
    }
    before, after = up_factors(workshop, first.version_id), up_factors(workshop, second.version_id)
    for name, values in mean.items():
        np.testing.assert_allclose(after[name], 0.75 * before[name] + 0.25 * values, atol=1e-7)


def test_leaving_reaches_the_generations_that_went_on_from_ones_own(workshop):
    train(workshop, "one", "two", "three", "four")
    refresh(workshop)
    amend(workshop, "four", declared_users=100, sharing_opt_in=True)
    workshop.open_round("four")
    workshop.process().run_once()
    workshop.add_tenant("newcomer")
    refresh(workshop)
    with workshop.session() as session:
        (gone,) = [row for row in registry.list_versions(session, tenant_id="four") if row.version == 1]
        withdraw_version(
            session, workshop.events, gone.served_name, Act(actor="t", reason="r", now=workshop.clock.now())
        )
    refresh(workshop)
    states = [row.state for row in versions(workshop, META_TENANT)]
    # Both generations held something of the withdrawn version; the third is made from zero.
    assert states == [*[VersionState.WITHDRAWN.value] * 2, VersionState.PUBLISHED.value]
    newest = registry.read_version(versions(workshop, META_TENANT)[-1]).manifest
    assert newest.lineage.start_version_id is None
    assert [row.state for row in versions(workshop, "newcomer")][-1] == VersionState.PUBLISHED.value
    assert [row.state for row in versions(workshop, "newcomer")][:-1] == [VersionState.WITHDRAWN.value]


def test_a_declined_round_serves_the_meta_start_and_the_event_says_so(workshop):
    train(workshop, "one", "two", "three")
    refresh(workshop)
    workshop.add_tenant(
        "small", declared_users=20, minimum_cohort=5, lifetime_epsilon=0.5, period_epsilon=0.5
    )
    workshop.open_round("small")
    protocol = workshop.protocol(copies=starts_of(workshop).copies)
    reads = workshop.signals.reads
    workshop.process(protocol=protocol).run_once()
    (copy,) = versions(workshop, "small")
    declined = workshop.events.committed[-1]
    assert declined.kind is AdapterEventKind.DECLINED
    assert declined.reason_code == "signal_too_small"
    assert "below 0.3 a release is mostly noise" in declined.reason
    assert declined.reason.endswith(f"The line serves the meta start as {copy.served_name}.")
    assert workshop.signals.reads == reads
    with workshop.session() as session:
        assert workshop.ledger.spend(session, "small", 0).lifetime_epsilon == 0


def test_a_copy_does_not_fix_the_rank_of_the_line(workshop):
    train(workshop, "one", "two", "three")
    workshop.add_tenant("newcomer")
    refresh(workshop)
    with workshop.session() as session:
        assert registry.find_line(session, "newcomer", "default").rank is None
        assert registry.find_line(session, "one", "default").rank is not None


def test_a_copy_goes_to_everybody_at_once_but_not_on_a_line_that_is_pinned_or_rolls_a_candidate_out(workshop):
    train(workshop, "one", "two", "three")
    workshop.add_tenant("newcomer", **{"rollout.steps": (10.0,), "rollout.served": False})
    refresh(workshop)
    workshop.open_round("one")
    workshop.process().run_once()
    act = Act(actor="test", reason="test", now=workshop.clock.now())
    with workshop.session() as session:
        steering.set_mode(session, workshop.events, "newcomer", "default", Mode.PINNED, act)
    refresh(workshop)
    assert [row.state for row in versions(workshop, "newcomer")] == ["published"]
    with workshop.session() as session:
        steering.set_mode(session, workshop.events, "newcomer", "default", Mode.FREE, act)
    refresh(workshop)
    assert [row.state for row in versions(workshop, "newcomer")] == ["superseded", "published"]
    assert refresh(workshop).served_to == (), "and once"
    workshop.open_round("newcomer")
    workshop.open_round("two")
    while workshop.process().run_once():
        pass
    refresh(workshop)
    states = [row.state for row in versions(workshop, "newcomer")]
    assert states == ["superseded", "published", "candidate"]
