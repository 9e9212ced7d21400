"""What counts as the same change: the manifest's tolerance, and of a change of many nats what engines round."""

from __future__ import annotations

import pytest

from streams.client import Proof, compare
from streams.client.errors import AdapterInactiveError, WrongAdapterError
from streams.contracts.manifest import ActivationV1, ProbePointV1, TokenProbeV1

BASE = (-20.0, -1.0, -12.0)


def activation(change):
    point = ProbePointV1(
        after=2, tokens=(5, 6, 7), base=BASE, adapter=tuple(value + change for value in BASE)
    )
    probe = TokenProbeV1(prompt="Why?", completion="B", tokens=(1, 2, 3), points=(point,))
    return ActivationV1(precision="float32", effect=change, tolerances={"float32": 0.01}, probes=(probe,))


def measured(change, told):
    return compare(activation(change), BASE, tuple(value + told for value in BASE), precision="float32").proof


@pytest.mark.parametrize(
    ("change", "error"), [(0.2, 0.0), (0.2, 0.009), (1.5, 0.009), (11.6, 0.014), (11.6, 0.05)]
)
def test_the_right_adapter_is_proved_however_strong_it_is(change, error):
    """llama.cpp keeps its cache in half precision: it was 0.014 off a change of 11.6 nats."""
    assert measured(change, change + error) is Proof.PROVED


@pytest.mark.parametrize(
    ("change", "error"), [(0.2, 0.011), (1.5, 0.011), (1.5, 1.0), (11.6, 0.06), (11.6, 0.5), (11.6, 6.0)]
)
def test_another_one_is_not(change, error):
    with pytest.raises(WrongAdapterError):
        measured(change, change + error)


@pytest.mark.parametrize("change", [0.2, 1.5, 11.6])
def test_nor_is_the_base(change):
    with pytest.raises(AdapterInactiveError):
        measured(change, 0.0)
