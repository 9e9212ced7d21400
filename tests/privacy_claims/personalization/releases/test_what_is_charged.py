"""What is published is what was charged: the noisy count, the run behind a receipt, the data within its retention."""

from __future__ import annotations

from datetime import timedelta

import pytest
import torch

from personalization.registry.tables import AdapterVersionRow
from personalization.releases import protocol
from personalization.rounds.tables import RoundRow
from personalization.training.mechanism import clipping
from personalization.training.mechanism.optimizer import FusedDPOptimizer, TenantMechanism
from privacy.errors import ReservationStateError
from privacy.mechanisms.gaussian import Gaussian
from privacy.mechanisms.private_read import ReadPurpose
from privacy.noise import lattice
from privacy.policy import versions as policies
from privacy.storage.session import transaction
from tests.fakes.ingest_world import IngestWorld
from tests.fakes.stream_records import consent, interaction
from tests.fakes.tiny_models import make_plan
from tests.fakes.training import Workshop


@pytest.fixture
def shop(engine, clock, tmp_path):
    shop = Workshop(engine, clock, tmp_path)
    shop.add_tenant()
    return shop


def test_the_published_count_has_the_noise_that_was_charged(shop, monkeypatch):
    asked = []

    def noise(_stream, _purpose, _step, deviation):
        asked.append(deviation)
        return 7

    monkeypatch.setattr(protocol, "discrete_gaussian", noise)
    round_id = shop.open_round()
    shop.process().run_once()
    with shop.session() as session:
        row = session.get(RoundRow, round_id)
        reservation = shop.ledger.reservation(session, row.reservation_id)
        version = session.get(AdapterVersionRow, row.version_id)
    (count,) = (one for one in reservation.mechanisms if isinstance(one, Gaussian))
    assert count.purpose is ReadPurpose.COHORT_COUNT
    assert asked == [count.standard_deviation]
    assert count.noise_multiplier == count.standard_deviation  # one user moves a count by one
    assert row.noisy_cohort == shop.signals.users + 7
    assert f'"noisy_cohort":{shop.signals.users + 7}' in version.manifest_json


def test_no_reservation_is_committed_before_its_draw_is_recorded(shop):
    round_id = shop.open_round()
    rounds = shop.protocol()
    with shop.session() as session:
        lease = protocol.rounds.lease_round(session, "one", shop.clock.now(), timedelta(seconds=60))
    assert rounds._reserve_or_recover(lease) is None
    rounds._start(lease)
    with shop.session() as session:
        reservation_id = session.get(RoundRow, round_id).reservation_id
    with pytest.raises(ReservationStateError, match="no draw"), shop.session() as session:
        shop.ledger.commit(session, reservation_id, lease.epoch)


def test_training_reads_nothing_past_its_retention(engine):
    world = IngestWorld(engine, policy={"retention_days": 30})
    world.take(world.consents, consent("ann"), consent("bob", offset=1))
    old = world.now - timedelta(days=29)
    world.take(world.interactions, interaction("ann", at=old), interaction("bob", event_id="b", offset=1))
    assert len(world.users()) == 2
    world.now += timedelta(days=2)
    assert len(world.users()) == 1
    with transaction(
        engine
    ) as session:  # a longer retention brings nothing back that was not deleted for good
        policies.set_policy(session, "acme", {"retention_days": 60}, actor="a", reason="b", now=world.now)
    assert len(world.users()) == 2


def test_a_row_that_the_exact_check_refuses_adds_nothing(monkeypatch):
    """The clipping never lets one through; were it to, the sum would not hear of it."""
    whole = clipping.whole_rows
    monkeypatch.setattr(clipping, "whole_rows", lambda rows, scales: whole(rows, scales) * 3)
    mechanisms = [TenantMechanism.of_plan(make_plan(noise_multiplier=0.0), bytes(32), [True, True])]
    parameter = torch.nn.Parameter(torch.zeros(1, 4, dtype=torch.float64))
    optimizer = FusedDPOptimizer(torch.optim.SGD([parameter], lr=1.0), mechanisms)
    norm = mechanisms[0].plan.clipping_norm
    parameter.grad_sample = torch.tensor([[norm, 0, 0, 0], [0, norm / 8, 0, 0]], dtype=torch.float64)
    optimizer.row_tenants, optimizer.row_users = torch.zeros(2, dtype=torch.long), [0, 1]
    optimizer.clip_and_accumulate()
    assert parameter.summed_grad[0, 0] == 0
    assert parameter.summed_grad[0, 1] == 3 * lattice.REACH // 8


def test_a_contribution_that_is_too_long_after_rounding_counts_as_zero(monkeypatch):
    import numpy as np

    vector = np.array([3.0, 4.0])
    assert np.abs(lattice.on_lattice(vector, 1.0)).max() > 0
    monkeypatch.setattr(lattice, "inner_reach", lambda _size: 1.01 * lattice.REACH)
    assert lattice.on_lattice(vector, 1.0).tolist() == [0, 0]
