"""How many users a choice needs: the measured table of users is met, and more of anything never hurts."""

from __future__ import annotations

import numpy as np
import pytest

from personalization.choices.forecast import CERTAINTY, NOTICED_LEAD, error_bound, users_needed


def erred(users, *, candidates, epsilon, lead, draws=4_000):
    """Return how often another than the best is drawn, simulated with Gumbel noise, which is the same draw."""
    rng = np.random.default_rng(5)
    behind = (1 - lead) / candidates
    shares = [behind + lead, *[behind] * (candidates - 1)]
    counts = rng.multinomial(users, shares, size=draws)
    return float(np.mean(np.argmax(counts + rng.gumbel(0, 1 / epsilon, counts.shape), axis=1) != 0))


@pytest.mark.parametrize(("candidates", "epsilon"), [(2, 0.25), (3, 0.5), (8, 0.5), (8, 1.0), (16, 2.0)])
def test_with_the_users_that_are_asked_for_the_best_is_drawn_as_often_as_is_said(candidates, epsilon):
    users = users_needed(candidates=candidates, epsilon=epsilon)
    found = erred(users, candidates=candidates, epsilon=epsilon, lead=NOTICED_LEAD)
    assert found <= 1 - CERTAINTY + 0.02
    assert erred(users // 4, candidates=candidates, epsilon=epsilon, lead=NOTICED_LEAD) > 1 - CERTAINTY


def test_more_candidates_or_less_epsilon_need_more_users_and_more_users_err_less():
    needed = [users_needed(candidates=number, epsilon=0.5) for number in (2, 3, 8, 16)]
    assert needed == sorted(needed)
    assert len(set(needed)) == 4
    dear = [users_needed(candidates=3, epsilon=epsilon) for epsilon in (4.0, 1.0, 0.5, 0.1)]
    assert dear == sorted(dear)
    bounds = [error_bound(users, candidates=3, epsilon=0.5) for users in (1, 10, 100, 1000)]
    assert bounds == sorted(bounds, reverse=True)
    assert error_bound(1e6, candidates=16, epsilon=4.0) < 1e-6
