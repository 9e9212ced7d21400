"""Roll-back and withdrawal: the pointer, the states, the events, the audit, and what servers are told."""

from __future__ import annotations

import pytest

from personalization.adapters.manifest import VersionState
from personalization.errors import (
    ArtifactNotFoundError,
    LineNotFoundError,
    VersionNotFoundError,
    VersionStateError,
)
from personalization.registry import queries as registry
from personalization.registry.announcements import Act, AdapterEventKind, DesiredChange
from personalization.registry.rollback import roll_back
from personalization.registry.withdrawal import remove_withdrawn_weights, withdraw_line, withdraw_version
from personalization.rounds.states import OutcomeCode
from privacy.audit import trail as audit_trail
from tests.fakes.training import Workshop


def why(shop):
    return Act(actor="officer", reason="It answers in the wrong tone.", now=shop.clock.now())


@pytest.fixture
def shop(engine, clock, tmp_path):
    shop = Workshop(engine, clock, tmp_path)
    shop.add_tenant(start="previous")
    for _ in range(3):
        shop.open_round()
        shop.process().run_once()
    return shop


def states(shop):
    with shop.session() as session:
        return [row.state for row in registry.list_versions(session, tenant_id="acme")]


def name_of(shop, number):
    with shop.session() as session:
        return registry.list_versions(session, tenant_id="acme")[number - 1].served_name


def test_roll_back_returns_to_the_version_before(shop):
    with shop.session() as session:
        version = roll_back(session, shop.events, "acme", "default", why(shop))

    assert version.version == 2
    assert states(shop) == [VersionState.SUPERSEDED, VersionState.PUBLISHED, VersionState.ROLLED_BACK]
    event = shop.events.committed[-1]
    assert (event.kind, event.desired_change) == (AdapterEventKind.ROLLED_BACK, DesiredChange.SET)
    assert event.desired.version == 2
    assert event.left_version_id == shop.events.committed[2].version.version_id
    assert [one.epoch for one in shop.events.committed] == [1, 2, 3, 4]
    with shop.session() as session:
        assert audit_trail.read(session, "acme")[-1].action == "adapter.rolled_back"


def test_a_version_that_was_left_is_never_served_again(shop):
    with shop.session() as session:
        roll_back(session, shop.events, "acme", "default", why(shop))
    with pytest.raises(VersionStateError), shop.session() as session:
        roll_back(session, shop.events, "acme", "default", why(shop), to_version=3)


def test_roll_back_to_a_number(shop):
    with shop.session() as session:
        assert roll_back(session, shop.events, "acme", "default", why(shop), to_version=1).version == 1
    with pytest.raises(VersionNotFoundError), shop.session() as session:
        roll_back(session, shop.events, "acme", "default", why(shop))


def test_a_release_after_a_roll_back_takes_a_new_number_and_starts_from_what_is_served(shop):
    with shop.session() as session:
        served = roll_back(session, shop.events, "acme", "default", why(shop))
    shop.open_round()
    shop.process().run_once()

    version = shop.events.committed[-1].version
    assert version.version == 4
    assert version.manifest.lineage.start_version_id == served.version_id


def test_an_unknown_line_is_named(shop):
    with pytest.raises(LineNotFoundError), shop.session() as session:
        roll_back(session, shop.events, "acme", "legal", why(shop))


def test_withdrawing_a_version_reaches_everything_trained_from_it(shop):
    with shop.session() as session:
        names = withdraw_version(session, shop.events, name_of(shop, 2), why(shop))
        remove_withdrawn_weights(session, shop.artifacts)

    assert len(names) == 2
    assert states(shop) == [VersionState.PUBLISHED, VersionState.WITHDRAWN, VersionState.WITHDRAWN]
    event = shop.events.committed[-1]
    assert (event.kind, event.desired_change) == (AdapterEventKind.WITHDRAWN, DesiredChange.SET)
    assert event.desired.version == 1
    assert len(event.revoked_version_ids) == 2
    for version_id in event.revoked_version_ids:
        with pytest.raises(ArtifactNotFoundError):
            shop.artifacts.open(version_id)
        assert shop.artifacts.manifest(version_id).version_id() == version_id
    with pytest.raises(VersionStateError), shop.session() as session:
        withdraw_version(session, shop.events, names[0], why(shop))


def test_withdrawing_the_first_version_leaves_the_base_model(shop):
    with shop.session() as session:
        withdraw_version(session, shop.events, name_of(shop, 1), why(shop))

    assert set(states(shop)) == {VersionState.WITHDRAWN}
    event = shop.events.committed[-1]
    assert (event.desired_change, event.desired) == (DesiredChange.CLEAR, None)


def test_withdrawing_a_line_clears_it_once(shop):
    with shop.session() as session:
        assert len(withdraw_line(session, shop.events, "acme", "default", why(shop))) == 3
    count = len(shop.events.committed)
    with shop.session() as session:
        assert withdraw_line(session, shop.events, "acme", "default", why(shop)) == ()
    assert len(shop.events.committed) == count


def test_another_tenants_version_cannot_be_found(shop):
    shop.add_tenant("beta")
    with pytest.raises(VersionNotFoundError), shop.session() as session:
        withdraw_version(session, shop.events, name_of(shop, 1), why(shop), tenant_id="beta")


def test_a_start_withdrawn_during_training_is_not_published(shop):
    shop.open_round()
    start = name_of(shop, 3)

    def withdraw(_should_stop):
        with shop.session() as session:
            withdraw_version(session, shop.events, start, why(shop))

    shop.trainer.during = withdraw
    shop.process().run_once()

    assert shop.outcomes.ended[-1].code is OutcomeCode.GATE_REJECTED
    assert "start_withdrawn" in shop.outcomes.ended[-1].reason
    assert states(shop)[2] == VersionState.WITHDRAWN
    assert len(states(shop)) == 3
