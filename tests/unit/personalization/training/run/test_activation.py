"""What the child measures of an adapter, and that a server of it, and no other, measures the same."""

from __future__ import annotations

import json

import pytest
import torch

from personalization.adapters.activation import TOLERANCES, Activation
from personalization.training.run.activation import POINTS, PROBES, WATCHED, measure_activation
from personalization.training.run.host import AdapterHost
from streams.client import (
    AdapterInactiveError,
    AdapterUnprovenError,
    Proof,
    WrongAdapterError,
    compare,
    readings,
)
from tests.fakes.adapters_on_disk import FLAGS, activation_of, on_layer, swapped, write_adapter
from tests.fakes.tiny_models import write_tiny_base


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("activation")


@pytest.fixture(scope="module")
def base(root):
    return write_tiny_base(root / "base")


@pytest.fixture(scope="module")
def adapter(base, root):
    return write_adapter(base, root / "right", seed=1)


@pytest.fixture(scope="module")
def activation(base, adapter):
    return activation_of(base, adapter)


def _asked(base, activation, directory):
    host = AdapterHost(base)
    if directory is not None:
        host.load("a-1", directory)
    name = None if directory is None else "a-1"
    return [host.next_log_probabilities(readings(activation), name=one) for one in (None, name)]


def test_a_server_of_the_adapter_measures_what_the_child_measured(base, adapter, activation):
    measured = compare(activation, *_asked(base, activation, adapter), precision="float32")
    assert measured.proof is Proof.PROVED
    assert measured.error < 1e-4
    assert measured.base_error < 1e-4
    assert measured.effect == pytest.approx(activation.effect, abs=1e-4)
    assert measured.effect > 0.05
    points = [point for probe in activation.probes for point in probe.points]
    assert len(activation.probes) == PROBES
    assert len(points) == PROBES * POINTS
    assert all(len(point.tokens) == WATCHED for point in points)
    assert all(value <= 0 for point in points for value in (*point.base, *point.adapter))


@pytest.mark.filterwarnings("ignore:Found missing adapter keys")  # PEFT says so, and answers as the base
@pytest.mark.parametrize(
    ("loaded", "error"),
    [
        ("another tenant's file", WrongAdapterError),
        ("swapped tensors", WrongAdapterError),
        ("layer 99", AdapterInactiveError),
        ("the base under the adapter's name", AdapterInactiveError),
    ],
)
def test_whatever_else_a_server_answers_with_is_caught(base, adapter, activation, tmp_path, loaded, error):
    directory = {
        "another tenant's file": lambda: write_adapter(base, tmp_path / "other", seed=2),
        "swapped tensors": lambda: swapped(adapter, tmp_path / "swapped"),
        "layer 99": lambda: on_layer(adapter, tmp_path / "nowhere", 99),
        "the base under the adapter's name": lambda: None,
    }[loaded]()
    answers = _asked(base, activation, directory)
    for precision in TOLERANCES:
        with pytest.raises(error):
            compare(activation, *answers, precision=precision)


def test_the_base_is_measured_once_for_all_adapters(base, adapter, tmp_path):
    other = write_adapter(base, tmp_path / "other", seed=2)
    one, two = measure_activation([adapter, other], base, FLAGS)
    assert one == measure_activation([adapter], base, FLAGS)[0]
    assert one != two
    assert [probe.tokens for probe in one.probes] == [probe.tokens for probe in two.probes]


def test_it_is_read_back_as_it_was_written(base, adapter):
    (found,) = measure_activation([adapter], base, FLAGS)
    assert Activation.from_document(json.loads(json.dumps(found.to_document()))) == found


def test_a_change_too_faint_to_tell_is_neither_proved_nor_wrong(base, tmp_path):
    faint = activation_of(base, write_adapter(base, tmp_path / "faint", seed=1, scale=0.0))
    answers = _asked(base, faint, None)
    assert compare(faint, *answers, precision="float32").proof is Proof.TOO_FAINT


def test_what_a_server_does_not_tell_proves_nothing(base, adapter, activation):
    base_values, adapted = _asked(base, activation, adapter)
    with pytest.raises(WrongAdapterError, match="did not tell"):
        compare(activation, base_values, [*adapted[:-1], float("nan")], precision="float32")
    with pytest.raises(AdapterUnprovenError, match="no tolerance for 'int3'"):
        compare(activation, base_values, adapted, precision="int3")


def test_no_tolerance_is_finer_than_the_measurement():
    coarse = Activation.measured((), "bfloat16")
    assert coarse.tolerances == {
        **TOLERANCES,
        "float32": TOLERANCES["bfloat16"],
        "float16": TOLERANCES["bfloat16"],
    }


def test_a_host_reads_the_tokens_that_it_is_given(base, activation):
    """No template and no token in front: the same as a plain forward pass."""
    host = AdapterHost(base)
    (reading, *_) = readings(activation)
    told = host.next_log_probabilities([reading], name=None)
    with torch.inference_mode():
        logits = host._model(input_ids=torch.tensor([list(reading.tokens)])).logits[0]
    after, watched = reading.points[-1]
    assert told[-len(watched) :] == pytest.approx(
        torch.log_softmax(logits[after - 1], 0)[list(watched)].tolist()
    )
    with pytest.raises(KeyError):
        host.next_log_probabilities([reading], name="unknown")
