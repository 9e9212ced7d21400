"""Meta starts that protect each tenant: charged to the fleet, once a slot, whatever tenants take part."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from personalization.adapters.files import WEIGHTS
from personalization.planning.plan import TrainingPlan
from personalization.planning.planner import propose
from personalization.registry import queries as registry
from personalization.starts.generations import MetaStarts
from personalization.starts.meta_versions import META_TENANT
from personalization.starts.recipe import MetaRecipe
from personalization.starts.tenant_level import TenantLevelPolicy, TenantLevelStarts
from privacy.accounting.filters import BudgetCaps
from privacy.errors import PolicyError
from privacy.guarantee import FLEET
from privacy.ledger import ReservationRequest, ReservationState
from privacy.ledger.export import export_ledger
from privacy.ledger.verify import verify_export
from privacy.mechanisms.gaussian import Gaussian
from privacy.mechanisms.private_read import ReadPurpose
from privacy.mechanisms.tenant_gaussian import TenantGaussian
from privacy.policy import versions as policies
from privacy.policy.values import TenantPrivacyPolicy
from privacy.reports.statement import privacy_statement
from tests.fakes.training import POLICY, SHAPE, FakeTrainer, Workshop, write_adapter

NUMBERS = {
    "declared_tenants": 4, "epsilon": 4.0, "delta": 1e-3, "planned_generations": 2, "every_seconds": 86_400,
}  # fmt: skip


def share_subspace(directory, *, zero=False):
    tensors = load_file(directory / WEIGHTS)
    for name, values in tensors.items():
        if ".lora_A." in name:
            tensors[name] = np.eye(*values.shape, dtype=np.float32)
        elif zero:
            tensors[name] = np.zeros_like(values)
    save_file(tensors, directory / WEIGHTS)


class SharedSubspaceTrainer(FakeTrainer):
    def train(self, job, *, on_progress, should_stop):
        results = super().train(job, on_progress=on_progress, should_stop=should_stop)
        for result in results:
            share_subspace(result.adapter)
        return results


@pytest.fixture
def shop(engine, clock, tmp_path):
    shop = Workshop(engine, clock, tmp_path)
    shop.trainer = SharedSubspaceTrainer()
    shop.meta = MetaStarts(shop.tools(), averages=False)
    plan = propose(TenantPrivacyPolicy(**POLICY), SHAPE)
    assert isinstance(plan, TrainingPlan)
    shop.plan = plan
    shop.templates = 0

    def template(plan, folder):
        shop.templates += 1
        write_adapter(folder / "template", plan, seed=0)
        share_subspace(folder / "template", zero=True)
        return folder / "template"

    shop.template = template
    return shop


def starts(shop, **changes):
    return TenantLevelStarts(
        shop.tools(), ledger=shop.ledger, meta=shop.meta, plan=shop.plan, template=shop.template,
        policy=TenantLevelPolicy(**NUMBERS | changes), recipe=MetaRecipe(max_delta_norm=1.0),
    )  # fmt: skip


def train(shop, *tenants):
    for tenant in tenants:
        shop.add_tenant(tenant, sharing_opt_in=True)
        shop.open_round(tenant)
    while shop.process().run_once():
        pass


def meta_rows(shop):
    with shop.session() as session:
        return [row for row in registry.list_versions(session) if row.tenant_id.startswith(META_TENANT)]


def test_a_slot_makes_one_charged_start_and_the_fleet_never_spends_more_than_its_cap(shop):
    train(shop, "one", "two")
    service, now = starts(shop), shop.clock.now()
    name = service.refresh(now=now)
    (row,) = meta_rows(shop)
    facts = registry.read_version(row).manifest.privacy
    assert (row.served_name, facts.unit, facts.mechanism) == (name, "tenant", "tenant_gaussian")
    assert service.refresh(now=now) is None
    assert starts(shop).refresh(now=now) is None  # another process finds the slot done
    for day in range(1, 4):
        starts(shop).refresh(now=now + timedelta(days=day))
    with shop.session() as session:
        spend = shop.ledger.spend(session, FLEET, 0)
        assert shop.ledger.spend(session, "one", 0).lifetime_epsilon < 8.0
    assert spend.releases == 2  # as many as planned; the third and fourth slot were refused
    assert 0 < spend.lifetime_epsilon <= 4.0
    assert len(meta_rows(shop)) == 2


def test_the_start_is_made_whoever_takes_part_and_the_ledger_proves_it(shop):
    assert starts(shop).refresh(now=shop.clock.now())
    (row,) = meta_rows(shop)
    tensors = load_file(shop.artifacts.open(row.version_id) / WEIGHTS)
    assert any(np.abs(values).max() > 0 for name, values in tensors.items() if ".lora_B." in name)
    report = verify_export(export_ledger(shop.engine))
    with shop.session() as session:
        said = privacy_statement(session, FLEET, now=shop.clock.now())
    assert report.ok, report.findings
    assert said.to_document()["unit"] == "tenant"
    assert "Adding or removing one tenant of the fleet" in said.to_text()


def test_plain_averages_are_withdrawn_and_bare_tenants_get_the_protected_start(shop):
    train(shop, "one", "two", "three")
    shop.add_tenant("bare")
    plain = MetaStarts(shop.tools())
    now = shop.clock.now()
    with shop.session() as session:
        plain.refresh(session, now=now)
    starts(shop).refresh(now=now)
    with shop.session() as session:
        shop.meta.refresh(session, now=now)
    assert [row.state for row in meta_rows(shop)] == ["withdrawn", "published"]
    with shop.session() as session:
        rows = registry.list_versions(session, tenant_id="bare")
    assert [row.state for row in rows] == ["withdrawn", "published"]
    assert registry.read_version(rows[-1]).manifest.privacy.unit == "tenant"


def test_a_crash_forfeits_the_slot_and_leaves_the_next_one_free(shop):
    service, now = starts(shop), shop.clock.now()
    service._release = crash
    with pytest.raises(RuntimeError):
        service.refresh(now=now)
    assert starts(shop).refresh(now=now) is None
    assert starts(shop).refresh(now=now + timedelta(days=1))
    with shop.session() as session:
        found = shop.ledger.spend(session, FLEET, 0).reservations
    assert found == {ReservationState.FORFEITED: 1, ReservationState.COMMITTED: 1}


def test_a_killed_process_is_waited_for_and_then_forfeited(shop):
    service, now = starts(shop), shop.clock.now()
    service._release = kill
    with pytest.raises(KeyboardInterrupt):
        service.refresh(now=now)
    before = shop.templates
    assert starts(shop).refresh(now=now + timedelta(minutes=1)) is None
    with shop.session() as session:
        assert list(shop.ledger.spend(session, FLEET, 0).reservations) == [ReservationState.RUNNING]
    assert starts(shop).refresh(now=now + timedelta(minutes=11)) is None
    with shop.session() as session:
        assert list(shop.ledger.spend(session, FLEET, 0).reservations) == [ReservationState.FORFEITED]
    assert shop.templates == before  # nothing was made for a slot that is settled


def crash(*_args):
    raise RuntimeError("crash")


def kill(*_args):
    raise KeyboardInterrupt


def test_users_and_tenants_are_never_composed_and_the_name_is_taken(shop):
    caps = BudgetCaps(period_epsilon=1.0, period_delta=1e-6, lifetime_epsilon=1.0, lifetime_delta=1e-6)
    user = Gaussian(sensitivity=1.0, standard_deviation=9.0, purpose=ReadPurpose.KPI)
    tenant = TenantGaussian(noise_multiplier=9.0, clipping_norm=1.0)
    for owner, mechanism in (("acme", tenant), (FLEET, user)):
        with pytest.raises(ValueError, match="another unit"):
            ReservationRequest(
                tenant_id=owner, policy_version=1, period_index=0, purpose=ReadPurpose.KPI, mechanisms=(mechanism,),
                idempotency_key="k", epoch=0, caps=caps,
            )  # fmt: skip
    with shop.session() as session, pytest.raises(PolicyError, match="the fleet's own account"):
        policies.register_tenant(session, FLEET, actor="t", now=shop.clock.now())
    with pytest.raises(ValueError, match=r"delta is 0\.3"):
        TenantLevelPolicy(**NUMBERS | {"delta": 0.3})
