"""One user moves the sums of one look by at most 1, whatever the user does; all looks cost what one Gaussian does."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.accounting.second_opinion import dp_event_of
from privacy.mechanisms.documents import from_document, to_document
from privacy.mechanisms.noisy_comparison import UNIT, Arms, NoisyComparison
from privacy.reports.statement import mechanism_sentence


@given(
    st.floats(allow_nan=True, allow_infinity=True),
    st.booleans(),
    st.floats(0.001, 0.999),
    st.floats(0.01, 0.99),
)
def test_a_users_part_is_never_longer_than_the_unit(value, candidate, share, centre):
    part = Arms(share=share, centre=centre).part(value, candidate=candidate)
    assert all(isinstance(one, int) for one in part)
    assert sum(one * one for one in part) <= UNIT**2


def test_the_bound_is_reached_so_the_noise_is_not_larger_than_needed():
    part = Arms(share=0.5).part(1.0, candidate=True)
    assert math.sqrt(sum(one * one for one in part)) == pytest.approx(UNIT, rel=1e-5)


def test_the_price_does_not_grow_with_looks_because_a_user_is_in_one():
    one, many = (NoisyComparison(noise_multiplier=4.23, looks=looks) for looks in (1, 16))
    assert (
        one.divergences([2.0, 8.0]) == many.divergences([2.0, 8.0]) == [2 / (2 * 4.23**2), 8 / (2 * 4.23**2)]
    )


def test_it_is_stored_checked_by_the_second_opinion_and_told():
    mechanism = NoisyComparison(noise_multiplier=4.23, looks=4)
    document = to_document(mechanism)
    assert from_document(document) == mechanism
    assert dp_event_of(mechanism).noise_multiplier == 4.23
    assert "4.23" in mechanism_sentence(document)
    for changes in ({"noise_multiplier": math.nan}, {"looks": 0}, {"looks": True}):
        with pytest.raises(ValueError, match="allowed"):
            NoisyComparison(**{"noise_multiplier": 4.23, "looks": 4, **changes})
