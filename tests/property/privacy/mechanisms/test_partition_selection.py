"""Thresholds rise with whatever makes a release more telling."""

from hypothesis import given
from hypothesis import strategies as st

from privacy.mechanisms.partition_selection import PartitionSelection

weights = st.floats(1e-6, 1.0)
noises = st.floats(0.05, 1e4)
deltas = st.floats(1e-20, 1e-3)
keys = st.integers(1, 10_000)


def threshold(noise, delta, most, weight):
    return PartitionSelection(noise_multiplier=noise, delta=delta, unknown_keys=most).threshold(weight)


@given(
    st.tuples(weights, weights),
    st.tuples(noises, noises),
    st.tuples(deltas, deltas),
    st.tuples(keys, keys),
)
def test_a_threshold_rises_with_weight_noise_and_keys_and_falls_with_delta(weight, noise, delta, most):
    lowest = threshold(min(noise), max(delta), min(most), min(weight))
    assert lowest > min(weight)
    assert lowest <= threshold(min(noise), max(delta), min(most), max(weight))
    assert lowest <= threshold(max(noise), max(delta), min(most), min(weight))
    assert lowest <= threshold(min(noise), min(delta), min(most), min(weight))
    assert lowest <= threshold(min(noise), max(delta), max(most), min(weight))
