"""Two tenants of one population get, between them, the releases that one of them would get alone."""

from __future__ import annotations

import pytest

from personalization.adapters.manifest import PrivacyFacts
from tests.fakes.training import Workshop


@pytest.fixture
def shop(engine, clock, tmp_path):
    return Workshop(engine, clock, tmp_path)


def published(shop, tenants, most=12) -> list[PrivacyFacts]:
    """Open rounds in turn and return the privacy facts of what was published."""
    before = len(shop.events.committed)
    for number in range(most):
        shop.open_round(tenants[number % len(tenants)])
        shop.process().run_once()
    events = shop.events.committed[before:]
    return [event.version.manifest.privacy for event in events if event.version is not None]


def test_linked_tenants_share_one_lifetime_budget_through_the_whole_protocol(shop):
    shop.add_tenant("alone")
    alone = published(shop, ["alone"])
    for name in ("acme", "beta"):
        shop.add_tenant(name, population="staff")
    together = published(shop, ["acme", "beta"])

    assert 2 < len(together) == len(alone) < 12
    assert [facts.cumulative_epsilon for facts in together] == sorted(
        facts.cumulative_epsilon for facts in together
    )
    assert all(facts.cumulative_epsilon <= facts.target_epsilon for facts in together)
    assert together[1].cumulative_epsilon > together[1].release_epsilon  # it holds the other tenant's too
