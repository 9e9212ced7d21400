"""A key that one user alone holds does not come out: 300,000 votes with the noise and thresholds that are used."""

import numpy as np
import pytest
from scipy import stats

from privacy.mechanisms.partition_selection import VOTE_UNIT, PartitionSelection
from privacy.noise.keystream import PURPOSE_STYLE, SecretStream
from privacy.noise.normal import NoiseRow, whole_noise

RUNS = 300_000
CLAIMED = 1e-5  # what 0 releases in as many runs show of δ' = 1e-6, at 95 %
WEIGHTS = {"even": (0.5,) * 4, "uneven": (0.96, 0.16, 0.16, 0.16), "one": (1.0,)}


class LowThreshold(PartitionSelection):
    """A planted bug: the threshold is one standard deviation too low."""

    def threshold(self, weight):
        return super().threshold(weight) - self.noise_multiplier


def largest_probability(vote, weights):
    """Return the 95 % upper bound on the probability that a user with keys of its own is given away by one."""
    row = NoiseRow(SecretStream(bytes(range(32))), vote.noise_units)
    noise = whole_noise([row], PURPOSE_STYLE, 0, RUNS * len(weights)).reshape(RUNS, len(weights))
    votes = np.floor(np.array(weights) * VOTE_UNIT).astype(np.int64)
    assert int(votes @ votes) <= VOTE_UNIT**2
    above = (votes + noise) / VOTE_UNIT > [vote.threshold(weight) for weight in weights]
    told = int(above.any(axis=1).sum())
    return stats.beta.ppf(0.95, told + 1, RUNS - told)


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("sigma", [0.8, 4.2])
def test_a_user_alone_is_not_given_away(weights, sigma):
    vote = PartitionSelection(noise_multiplier=sigma, delta=1e-6, unknown_keys=4)
    assert largest_probability(vote, weights) <= CLAIMED


@pytest.mark.parametrize("weights", [WEIGHTS["even"], WEIGHTS["uneven"]], ids=["even", "uneven"])
def test_a_threshold_one_deviation_too_low_is_noticed(weights):
    planted = LowThreshold(noise_multiplier=4.2, delta=1e-6, unknown_keys=4)
    assert largest_probability(planted, weights) > CLAIMED


def test_noise_of_another_size_than_is_charged_is_noticed():
    louder = PartitionSelection(noise_multiplier=5.2, delta=1e-6, unknown_keys=4)
    vote = PartitionSelection(noise_multiplier=4.2, delta=1e-6, unknown_keys=4)
    row = NoiseRow(SecretStream(bytes(range(32))), louder.noise_units)
    noise = whole_noise([row], PURPOSE_STYLE, 0, RUNS) / VOTE_UNIT
    assert (noise > vote.threshold(1.0) - 1.0).sum() > 3
