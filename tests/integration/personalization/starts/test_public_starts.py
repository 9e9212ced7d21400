"""Starts from public data: MAML until enough tenants share, a warm start under a style guide; both free of charge."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from personalization.adapters.files import WEIGHTS
from personalization.adapters.manifest import Scope, VersionState
from personalization.errors import MetaStartError, WarmStartError
from personalization.planning.plan import PerformanceFlags
from personalization.registry import queries as registry
from personalization.starts.generations import MetaStarts
from personalization.starts.meta_versions import META_TENANT
from personalization.starts.public_starts import PublicStarts
from personalization.starts.recipe import MetaRecipe
from personalization.suites.values import Axis
from personalization.training.child.job import run
from personalization.training.jobs.job import PUBLIC_KEY, PublicLosses, TenantResult
from personalization.training.jobs.recipes import MamlRecipe, StyleGuide
from privacy.audit import trail as audit_trail
from privacy.errors import PolicyError
from privacy.policy import versions as policies
from streams.cli.main import main
from tests.fakes.keys import prepared_store_url
from tests.fakes.tiny_models import write_tiny_base
from tests.fakes.training import FakeTrainer, Workshop, write_adapter

GUIDE = StyleGuide(instruction="Be short.", examples=(("a.py", "fix(a): one"),), pattern=r"fix\(")


class PublicWork:
    """Stands in for the child: writes an adapter in the shared subspace and remembers the jobs."""

    def __init__(self):
        self.jobs = []
        self.adapted = (2.0, 4.0)

    def __call__(self, job):
        self.jobs.append(job)
        directory = job.output / PUBLIC_KEY
        write_adapter(directory, job.plan, seed=len(self.jobs))
        share_subspace(directory)
        return TenantResult(
            job_key=PUBLIC_KEY, adapter=directory, steps=1, sample_rate=1.0, noise_multiplier=0.0,
            delta_norm=1.0, trainable_parameters=1,
            public_losses=PublicLosses(base=(2.0, 4.0), adapted=self.adapted),
        )  # fmt: skip


def share_subspace(directory):
    tensors = load_file(directory / WEIGHTS)
    frozen = {n: np.eye(*v.shape, dtype=np.float32) for n, v in tensors.items() if ".lora_A." in n}
    save_file(tensors | frozen, directory / WEIGHTS)


class SharedSubspaceTrainer(FakeTrainer):
    def __init__(self):
        super().__init__()
        self.starts = []

    def train(self, job, *, on_progress, should_stop):
        self.starts += [tenant.start_adapter for tenant in job.tenants]
        results = super().train(job, on_progress=on_progress, should_stop=should_stop)
        for result in results:
            share_subspace(result.adapter)
        return results


@pytest.fixture
def shop(engine, clock, tmp_path):
    shop = Workshop(engine, clock, tmp_path)
    shop.trainer = SharedSubspaceTrainer()
    shop.work = PublicWork()
    shop.meta = MetaStarts(shop.tools(), recipe=MetaRecipe(outer_rate=0.5))
    shop.public = PublicStarts(
        shop.tools(), run=shop.work, copies=shop.meta.copies, flags=PerformanceFlags(),
        max_public_text_change=0.01,
    )  # fmt: skip
    return shop


def rows_of(shop, prefix):
    with shop.session() as session:
        return [row for row in registry.list_versions(session) if row.tenant_id.startswith(prefix)]


def test_a_maml_start_serves_until_tenants_share_and_their_first_generation_goes_on_from_it(shop):
    now = shop.clock.now()
    shop.add_tenant("bare")
    built = shop.public.build_maml(MamlRecipe(), now=now)
    (maml,) = rows_of(shop, META_TENANT)
    (copy,) = rows_of(shop, "bare")
    assert (built.published, built.served_to) == ((maml.served_name,), (copy.served_name,))
    facts = registry.read_version(maml).manifest.privacy
    assert (facts.mechanism, facts.release_epsilon, facts.cumulative_epsilon) == ("public_data", 0.0, 0.0)
    again = shop.public.build_maml(MamlRecipe(), now=now)
    assert (again.published, again.kept) == ((), 1)

    for tenant in ("one", "two", "three"):
        shop.add_tenant(tenant, sharing_opt_in=True)
        shop.open_round(tenant)
    while shop.process().run_once():
        pass
    assert set(shop.trainer.starts) == {shop.artifacts.open(maml.version_id)}
    with shop.session() as session:
        shop.meta.refresh(session, now=now)
    maml, mean = rows_of(shop, META_TENANT)
    assert (maml.state, mean.state) == (VersionState.SUPERSEDED.value, VersionState.PUBLISHED.value)
    assert mean.start_version_id == maml.version_id
    assert shop.public.build_maml(MamlRecipe(outer_steps=2), now=now).kept == 1
    with shop.session() as session:
        policies.set_policy(session, "one", {"sharing_opt_in": False}, actor="t", reason="t", now=now)
    with shop.session() as session:
        shop.meta.refresh(session, now=now)
    assert [row.state for row in rows_of(shop, META_TENANT)] == ["published", "withdrawn"]
    (served,) = [row for row in rows_of(shop, "bare") if row.state == VersionState.PUBLISHED.value]
    assert registry.read_version(served).manifest.privacy.mechanism == "public_data"


def test_a_warm_start_is_a_version_that_cost_nothing_and_the_first_training_begins_from_it(shop):
    shop.add_tenant()
    now = shop.clock.now()
    name = shop.public.warm_start("acme", "default", GUIDE, actor="officer", now=now)
    (warm,) = rows_of(shop, "acme")
    manifest = registry.read_version(warm).manifest
    assert (warm.served_name, manifest.scope, manifest.privacy.release_epsilon) == (name, Scope.TENANT, 0.0)
    assert shop.events.committed[-1].desired.served_name == name
    assert shop.work.jobs[-1].plan.noise_multiplier == 0.0
    with shop.session() as session:
        assert shop.ledger.spend(session, "acme", 0).reservations == {}
        actions = [record.action for record in audit_trail.read(session, "acme")]
    assert "adapter.warm_started" in actions
    shop.open_round()
    shop.process().run_once()
    own = rows_of(shop, "acme")[-1]
    lineage = registry.read_version(own).manifest.lineage
    assert (lineage.start, lineage.start_version_id) == ("warm", warm.version_id)
    assert shop.trainer.starts == [shop.artifacts.open(warm.version_id)]
    with pytest.raises(WarmStartError, match="was trained on the tenant's users"):
        shop.public.warm_start("acme", "default", GUIDE, actor="officer", now=now)


def test_a_warm_start_does_not_count_as_a_contribution_and_is_not_replaced_by_a_copy(shop):
    now = shop.clock.now()
    for tenant in ("one", "two", "three"):
        shop.add_tenant(tenant, sharing_opt_in=True)
        shop.public.warm_start(tenant, "default", GUIDE, actor="t", now=now)
    with shop.session() as session:
        done = shop.meta.refresh(session, now=now)
    assert (done.published, done.served_to) == ((), ())


def test_a_tenant_without_a_policy_may_warm_start_its_default_line_only(shop):
    now = shop.clock.now()
    with shop.session() as session:
        policies.register_tenant(session, "bare", actor="test", now=now)
    assert shop.public.warm_start("bare", "default", GUIDE, actor="t", now=now)
    with pytest.raises(PolicyError, match="allowed are default"):
        shop.public.warm_start("bare", "legal", GUIDE, actor="t", now=now)


def test_a_start_that_forgets_public_text_is_not_published(shop):
    shop.add_tenant()
    shop.work.adapted = (2.2, 4.4)
    with pytest.raises(MetaStartError, match="public text would change by"):
        shop.public.warm_start("acme", "default", GUIDE, actor="t", now=shop.clock.now())
    assert rows_of(shop, "acme") == []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # it trains for long; SQL is tested above
def test_the_commands_build_and_warm_start_on_a_real_base(
    engine, database_url, clock, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("DISCREET_DATABASE__URL", database_url)
    monkeypatch.setenv("DISCREET_STATE", str(tmp_path))
    monkeypatch.setenv("DISCREET_KEYS__URL", prepared_store_url(database_url))
    monkeypatch.setenv("DISCREET_MASTER_KEY", base64.b64encode(bytes(32)).decode())
    monkeypatch.setenv("DISCREET_TRAINER__BASE_MODEL", str(write_tiny_base(tmp_path / "base", layers=2)))
    monkeypatch.setenv("DISCREET_TRAINER__DEVICE", "cpu")
    with Workshop(engine, clock, tmp_path).session() as session:
        policies.register_tenant(session, "acme", actor="test", now=clock.now())
        policies.register_tenant(session, "other", actor="test", now=clock.now())
    guide = tmp_path / "guide.json"
    guide.write_text(json.dumps(GUIDE.to_document()))

    def asked(*words):
        status = main([*words, "--json"])
        captured = capsys.readouterr()
        assert status == 0, captured.err
        return json.loads(captured.out.splitlines()[-1])

    warm = asked("adapters", "warm-start", "acme", "--style-guide", str(guide))
    assert asked("adapters", "show", warm["served_name"])["release_epsilon"] == 0.0
    # The child's work, in this process: another one that loads torch would show nothing more.
    monkeypatch.setattr("personalization.training.child.parent.run_job", lambda job: run(job, lambda _: None))
    told = asked(
        "adapters", "evaluate", warm["served_name"], "--depth", "quick", "--plot", str(tmp_path / "p.png")
    )
    assert {one["axis"] for one in told["findings"]} == {axis.value for axis in Axis}
    assert (told["before_id"], told["as_published"], len(told["scores"]["axes"])) == (None, None, len(Axis))
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"
    assert main(["adapters", "evaluate", warm["served_name"], "--depth", "quick"]) == 0
    assert "memorisation" in capsys.readouterr().out
    built = asked("meta", "build", "--method", "maml", "--outer-steps", "1", "--inner-steps", "1")
    assert (len(built["published"]), len(built["served_to"])) == (1, 1)
    (fact,) = asked("meta", "list")
    assert (fact["mechanism"], fact["generation"]) == ("public_data", 1)
    guide.write_text('{"instruction": "x", "examples": [{"prompt": "a", "answer": "no"}], "pattern": "fix"}')
    assert main(["adapters", "warm-start", "other", "--style-guide", str(guide)]) == 2
    assert "does not follow its own pattern" in capsys.readouterr().err
