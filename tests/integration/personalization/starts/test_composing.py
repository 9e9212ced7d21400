"""Two lines are composed into their exact mean, at no cost, and a withdrawal of either part reaches it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from safetensors.numpy import load_file

from personalization.adapters.files import WEIGHTS
from personalization.adapters.manifest import COMPOSED, Scope
from personalization.errors import LineNotFoundError, MetaStartError
from personalization.planning.plan import PerformanceFlags
from personalization.registry import queries as registry
from personalization.registry.announcements import Act
from personalization.registry.withdrawal import heirs_of, withdraw_version
from personalization.starts import composing
from personalization.starts.composing import Compositions, domain_of_both
from personalization.starts.copies import is_copy
from personalization.training.jobs.job import PublicLosses, TenantResult
from privacy.ledger import history
from privacy.ledger.chain import EntryKind
from streams.cli.main import main
from tests.fakes.training import SharedSubspaceTrainer, Workshop

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def measured(job, losses=(2.0, 4.0)):
    """What a child says of an adapter, without a model."""
    return tuple(
        TenantResult(
            job_key=name, adapter=adapter, steps=0, sample_rate=0.0, noise_multiplier=0.0, delta_norm=0.0,
            trainable_parameters=0, public_losses=PublicLosses(base=(2.0, 4.0), adapted=losses),
        )
        for name, adapter in job.adapters.items()
    )  # fmt: skip


class Lines(Workshop):
    """A tenant whose lines of two domains share a frozen subspace."""

    def __init__(self, engine, clock, folder):
        super().__init__(engine, clock, folder)
        self.trainer = SharedSubspaceTrainer()
        self.add_tenant(domains=["legal", "finance"], release_padding_seconds=0)
        for domain in ("legal", "finance"):
            self.open_round("acme", domain)
            self.process().run_once()

    def row(self, domain):
        with self.session() as session:
            return registry.current_version(session, registry.find_line(session, "acme", domain))

    def compositions(self, run=measured):
        return Compositions(self.tools(), run=run, flags=PerformanceFlags(), limit=0.01)

    def compose(self, one="legal", other="finance", run=measured):
        return self.compositions(run).compose("acme", one, other, actor="ann", now=self.clock.now())

    def tensors(self, domain):
        return load_file(self.artifacts.open(self.row(domain).version_id) / WEIGHTS)


@pytest.fixture
def lines(engine, clock, tmp_path):
    return Lines(engine, clock, tmp_path)


def test_the_mean_is_exact_signed_and_free(lines):
    with lines.session() as session:
        charged = len(history.entries(session, "acme", *EntryKind))
    made = lines.compose()
    assert made.domain == "finance-and-legal"
    parts = lines.tensors("legal"), lines.tensors("finance")
    for name, values in lines.tensors(made.domain).items():
        np.testing.assert_allclose(values, (parts[0][name] + parts[1][name]) / 2, rtol=1e-6, atol=1e-9)
    with lines.session() as session:
        assert len(history.entries(session, "acme", *EntryKind)) == charged
    manifest = registry.read_version(lines.row(made.domain)).manifest
    costs = [json.loads(lines.row(domain).manifest_json)["privacy"] for domain in ("legal", "finance")]
    assert manifest.privacy.mechanism == "post_processing"
    assert manifest.privacy.cumulative_epsilon == max(cost["cumulative_epsilon"] for cost in costs)
    assert manifest.lineage.start == COMPOSED
    assert {check.name for check in manifest.evaluation.checks} >= {"public_text", "blend", "finite"}
    again = lines.compose("finance", "legal")
    assert again.domain == made.domain
    assert again.served_name != made.served_name


def test_a_meta_start_never_takes_the_place_of_what_was_composed(lines):
    lines.compose()
    assert not is_copy(lines.row(domain_of_both("legal", "finance")))


@pytest.mark.parametrize("part", ["legal", "finance"])
def test_a_withdrawal_of_either_part_reaches_the_mean(lines, part):
    made = lines.compose()
    with lines.session() as session:
        row = registry.current_version(session, registry.find_line(session, "acme", part))
        assert heirs_of(session, row) == [made.served_name]
        act = Act(actor="ann", reason="a test asks", now=lines.clock.now())
        names = withdraw_version(session, lines.events, row.version_id, act)
    assert set(names) == {row.served_name, made.served_name}
    assert lines.row(made.domain) is None
    assert lines.row("legal" if part == "finance" else "finance") is not None


def test_what_cannot_be_composed_is_refused_and_nothing_is_published(lines):
    with pytest.raises(MetaStartError, match="name two that differ"):
        domain_of_both("legal", "legal")
    with pytest.raises(LineNotFoundError):
        lines.compose("legal", "unknown")
    with pytest.raises(MetaStartError, match="public text"):
        lines.compose(run=lambda job: measured(job, losses=(20.0, 40.0)))

    def withdrawn_meanwhile(job):
        act = Act(actor="ann", reason="a test asks", now=lines.clock.now())
        with lines.session() as session:
            withdraw_version(session, lines.events, lines.row("legal").version_id, act)
        return measured(job)

    made = lines.compose()
    with pytest.raises(MetaStartError, match="composed itself"):
        lines.compose(made.domain, "legal")
    with pytest.raises(MetaStartError, match="replaced or withdrawn meanwhile"):
        lines.compose(run=withdrawn_meanwhile)
    assert lines.row(made.domain) is None  # the first mean went with its part


def test_what_is_held_until_its_slot_ends_is_not_composed_before(lines):
    with lines.session() as session:
        row = registry.current_version(session, registry.find_line(session, "acme", "legal"))
        row.published_at = lines.clock.now() + timedelta(hours=1)
        session.add(row)
    with pytest.raises(MetaStartError, match="compose after it"):
        lines.compose()
    lines.clock.advance(seconds=3600)
    assert lines.compose().domain == "finance-and-legal"


def test_a_copy_of_a_meta_start_is_other_tenants_and_is_not_composed(lines, monkeypatch):
    read = registry.read_version

    def of_other_tenants(row):
        version = read(row)
        return replace(version, manifest=replace(version.manifest, scope=Scope.META))

    monkeypatch.setattr(composing.registry, "read_version", of_other_tenants)
    with pytest.raises(MetaStartError, match="a meta start"):
        lines.compose()


def test_the_command_says_what_it_made(lines, monkeypatch, capsys):
    from contextlib import contextmanager
    from types import SimpleNamespace

    from personalization.training.child import parent
    from streams.processes import trainer

    @contextmanager
    def tools(_):
        yield SimpleNamespace(shop=lines.tools())

    monkeypatch.setattr(trainer, "start_tools", tools)
    monkeypatch.setattr(parent, "run_job", measured)
    assert main(["adapters", "compose", "acme", "legal", "finance", "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["domain"] == "finance-and-legal"
    assert told["served_name"] == lines.row("finance-and-legal").served_name
    assert composing.EACH == 0.5
