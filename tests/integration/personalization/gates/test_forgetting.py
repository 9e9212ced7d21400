"""What a round forgets of public text keeps it from being published; how a line moves is said with each version."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import aiohttp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from sqlmodel import select

from personalization.adapters.files import WEIGHTS
from personalization.adapters.manifest import VersionState
from personalization.gates.drift import drift_document
from personalization.registry import queries as registry
from personalization.registry.announcements import Act, AdapterEventKind
from personalization.registry.tables import AdapterVersionRow
from personalization.registry.withdrawal import withdraw_version
from personalization.releases.protocol import Closed
from privacy.policy.ceilings import PolicyCeilings
from streams.http.server import HttpServer
from streams.http.tokens import Access
from tests.fakes.training import FakeTrainer, Workshop


class OneSubspace(FakeTrainer):
    """Adapters of one frozen subspace; remembers what each round was asked to average in."""

    def __init__(self):
        super().__init__()
        self.blends = []

    def train(self, job, *, on_progress, should_stop):
        self.blends += [(tenant.blend_with, tenant.blend_share) for tenant in job.tenants]
        results = super().train(job, on_progress=on_progress, should_stop=should_stop)
        for result in results:
            tensors = load_file(result.adapter / WEIGHTS)
            frozen = {n: np.eye(*v.shape, dtype=np.float32) for n, v in tensors.items() if ".lora_A." in n}
            save_file(tensors | frozen, result.adapter / WEIGHTS)
        return results


@pytest.fixture
def shop(engine, clock, tmp_path):
    shop = Workshop(engine, clock, tmp_path)
    shop.trainer = OneSubspace()
    return shop


def run_round(shop, **options):
    shop.open_round()
    shop.process(**options).run_once()
    return shop.outcomes.ended[-1]


def check(version, name):
    return next(one for one in version.manifest.evaluation.checks if one.name == name)


def test_a_release_that_forgets_public_text_is_not_published_and_stays_charged(shop):
    shop.add_tenant()
    shop.trainer.public_losses = (2.02, 4.10)  # 2 % above the base
    outcome = run_round(shop)
    assert isinstance(outcome, Closed)
    assert "public text would change by +2.0%; allowed is up to +1.0%" in outcome.reason
    (event,) = shop.events.committed
    assert (event.kind, event.reason) == (AdapterEventKind.DECLINED, outcome.reason)
    with shop.session() as session:
        assert session.exec(select(AdapterVersionRow)).all() == []
        assert shop.ledger.spend(session, "acme", 0).releases == 1


def test_a_release_within_the_limit_carries_the_measurement(shop):
    shop.add_tenant()
    shop.trainer.public_losses = (2.01, 4.02)
    found = check(run_round(shop), "public_text")
    assert (found.passed, found.threshold, found.privacy_epsilon) == (True, 0.01, 0.0)
    assert found.value == pytest.approx(0.005)


def test_the_limit_is_a_setting_and_without_one_the_measurement_still_stands(shop):
    shop.add_tenant()
    shop.trainer.public_losses = (2.2, 4.4)
    found = check(run_round(shop, max_public_text_change=None), "public_text")
    assert (found.value, found.threshold) == (pytest.approx(0.1), None)


def test_an_unmeasured_release_does_not_pass_a_limit(shop):
    shop.add_tenant()
    shop.trainer.public_losses = None
    assert "forgets_public_text" in run_round(shop).reason


def test_the_movement_of_a_line_is_said_with_the_version(shop):
    shop.add_tenant()
    first, second = run_round(shop), run_round(shop)
    assert drift_document(first.manifest) is None
    drift = drift_document(second.manifest)
    before, after = (load_file(shop.artifacts.open(v.version_id) / WEIGHTS) for v in (first, second))
    distance = sum(float(np.sum((after[n] - before[n]) ** 2)) for n in before) ** 0.5
    # Both start from zero and each carries noise of length 0.5, as the trainer measured it.
    assert drift["ratio_to_noise"] == pytest.approx(distance / (0.5 * 2**0.5), rel=1e-4)
    assert drift["against"] == first.version_id
    published = [e for e in shop.events.committed if e.kind is AdapterEventKind.PUBLISHED][-1]
    assert drift_document(published.version.manifest) == drift


def test_the_policy_averages_successive_releases_and_a_withdrawal_reaches_the_average(shop):
    shop.add_tenant(previous_share=0.4)
    first, second = run_round(shop), run_round(shop)
    assert shop.trainer.blends[0] == (None, 0.0)
    assert shop.trainer.blends[1] == (shop.artifacts.open(first.version_id), 0.4)
    blend = check(second, "blend")
    assert (blend.value, blend.detail) == (0.4, first.version_id)
    assert second.manifest.lineage.start_version_id is None
    with shop.session() as session:
        withdraw_version(
            session, shop.events, first.served_name, Act(actor="t", reason="r", now=shop.clock.now())
        )
    with shop.session() as session:
        state = registry.find_version(session, second.served_name).state
    assert state == VersionState.WITHDRAWN.value


def test_a_line_that_remembers_is_served_as_the_mean_of_its_releases(shop):
    shop.add_tenant(remember=True, previous_share=0.4)  # the second says nothing then
    first, second, _ = run_round(shop), run_round(shop), run_round(shop)
    assert shop.trainer.blends == [
        (None, 0.0),
        (shop.artifacts.open(first.version_id), pytest.approx(1 / 2)),
        (shop.artifacts.open(second.version_id), pytest.approx(2 / 3)),
    ]


def test_a_version_withdrawn_while_it_is_averaged_in_stops_the_release(shop):
    shop.add_tenant(previous_share=0.4)
    first = run_round(shop)

    def withdraw(_should_stop):
        with shop.session() as session:
            withdraw_version(
                session, shop.events, first.served_name, Act(actor="t", reason="r", now=shop.clock.now())
            )

    shop.trainer.during = withdraw
    assert "start_withdrawn" in run_round(shop).reason


def test_the_operator_reads_movement_and_public_text_over_http(shop):
    shop.add_tenant()
    shop.add_tenant("other")
    run_round(shop), run_round(shop)

    async def ask():
        access = Access(shop.engine, "token", shop.clock)
        probes = SimpleNamespace(alive=True, ready=True)
        server = HttpServer(
            host="127.0.0.1",
            port=0,
            probes=probes,
            exposition=lambda: b"",
            access=access,
            ceilings=PolicyCeilings(),
        )
        async with server, aiohttp.ClientSession(headers={"Authorization": "Bearer token"}) as session:
            answers = []
            for tenant in ("acme", "other", "nobody"):
                url = f"http://127.0.0.1:{server.port}/v1/tenants/{tenant}/adapters"
                async with session.get(url) as response:
                    answers.append((response.status, await response.json()))
            return answers

    (status, acme), (_, other), (missing, _) = asyncio.run(ask())
    assert (status, missing, other["adapters"]) == (200, 404, [])
    first, second = acme["adapters"]
    assert first["drift"] is None
    assert second["drift"]["against"] == first["version_id"]
    assert (second["public_text_change"], second["start"]) == (0.0, "zero")
