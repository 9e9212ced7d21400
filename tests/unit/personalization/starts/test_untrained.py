"""What a start that nobody was trained for says of its cost."""

from __future__ import annotations

from dataclasses import replace

from personalization.starts.untrained import mean_facts, public_facts
from tests.fakes.tiny_models import make_plan


def test_an_average_costs_a_user_what_their_tenant_has_spent_in_all():
    """A generation holds earlier generations, and so several releases of one tenant."""
    facts = public_facts(make_plan(), "sha256:" + "0" * 64)
    many_small = replace(facts, release_epsilon=0.5, cumulative_epsilon=3.0, target_epsilon=4.0)
    one_large = replace(facts, release_epsilon=2.0, cumulative_epsilon=2.0, target_epsilon=8.0)
    mean = mean_facts([many_small, one_large])
    assert mean.release_epsilon == mean.cumulative_epsilon == 3.0
    assert mean.target_epsilon == 8.0
