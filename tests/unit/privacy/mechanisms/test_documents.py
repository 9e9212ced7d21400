"""Mechanism events: documents round-trip, and whatever is not known or not a sane number is refused."""

import json
import math

import pytest

from privacy.accounting.composition import curve_of
from privacy.accounting.curve import RdpCurve
from privacy.accounting.second_opinion import divergences_of
from privacy.errors import LedgerIntegrityError, UnknownMechanismError
from privacy.mechanisms.documents import from_document, to_document
from privacy.mechanisms.exponential_choice import ExponentialChoice
from privacy.mechanisms.gaussian import Gaussian
from privacy.mechanisms.partition_selection import PartitionSelection
from privacy.mechanisms.private_read import ReadPurpose
from privacy.mechanisms.sampled_gaussian import PoissonSampledGaussian
from privacy.mechanisms.selection import PureSelection, RepeatAndSelect, TrialsDistribution
from privacy.mechanisms.tenant_gaussian import TenantGaussian

COUNT = Gaussian(sensitivity=1.0, standard_deviation=8.0, purpose=ReadPurpose.COHORT_COUNT)
TRAINING = PoissonSampledGaussian(
    noise_multiplier=1.5, sample_rate=0.2, steps=40, clipping_norm=1.0, contribution_bound=8
)
EVERY_TYPE = [
    TRAINING,
    PoissonSampledGaussian(noise_multiplier=2.0, sample_rate=1.0, steps=1, purpose=ReadPurpose.CLIPPING),
    COUNT,
    PureSelection(epsilon=0.5),
    ExponentialChoice(epsilon=0.5, candidates=3),
    PartitionSelection(noise_multiplier=4.2, delta=2.5e-8, unknown_keys=4),
    RepeatAndSelect(base=(TRAINING, COUNT), mean_trials=4.0, distribution=TrialsDistribution.GEOMETRIC),
]


@pytest.mark.parametrize("mechanism", EVERY_TYPE, ids=lambda one: one.kind)
def test_documents_round_trip_through_json(mechanism):
    document = json.loads(json.dumps(to_document(mechanism)))
    assert from_document(document) == mechanism
    assert document["unit"] == "user"
    assert document["relation"] == "add_or_remove_one"


@pytest.mark.parametrize(
    "change",
    [
        {"type": "laplace"},
        {"version": 2},
        {"version": None},
        {"relation": "replace_one"},
        {"unit": "example"},
        {"sampler": "shuffle"},
        {"sampler": "none"},
        {"noise_multiplier": 0.0},
        {"noise_multiplier": math.nan},
        {"steps": 1.5},
        {"steps": True},
        {"surprise": 1},
        {"purpose": "fun"},
    ],
)
def test_unknown_documents_are_refused(change):
    with pytest.raises(UnknownMechanismError):
        from_document({**to_document(TRAINING), **change})


def test_a_selection_of_selections_is_refused():
    document = to_document(EVERY_TYPE[-1])
    document["base"] = [to_document(PureSelection(epsilon=0.5))]
    with pytest.raises(UnknownMechanismError):
        from_document(document)
    with pytest.raises(UnknownMechanismError):
        from_document({**document, "base": "all"})


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, -1.0, 0.0, 5e-324, True, "1.0"])
def test_a_number_that_could_slip_past_a_filter_is_refused(bad):
    with pytest.raises(ValueError, match="noise_multiplier"):
        PoissonSampledGaussian(noise_multiplier=bad, sample_rate=0.1, steps=1)
    with pytest.raises(ValueError, match="standard_deviation"):
        Gaussian(sensitivity=1.0, standard_deviation=bad, purpose=ReadPurpose.KPI)
    with pytest.raises(ValueError, match="epsilon"):
        PureSelection(epsilon=bad)


def test_curves_refuse_other_grids_and_other_numbers():
    good = RdpCurve.zero().to_document()
    assert RdpCurve.from_document(good).is_zero
    for change in (
        {"grid": "grid-v2"},
        {"pico_nats": [0]},
        {"pico_nats": [-1, *good["pico_nats"][1:]]},
        {"pico_nats": [0.5, *good["pico_nats"][1:]]},
        {"pico_nats": [True, *good["pico_nats"][1:]]},
        {"pico_nats": "all"},
        {"selection_delta": -1},
        {"selection_delta": 1e-6},
        {"selection_delta": True},
    ):
        with pytest.raises(LedgerIntegrityError):
            RdpCurve.from_document({**good, **change})


def test_a_tenants_mechanism_carries_its_own_unit_and_costs_what_a_gaussian_does():
    mechanism = TenantGaussian(noise_multiplier=4.0, clipping_norm=2.0)
    document = to_document(mechanism)
    assert document["unit"] == "tenant"
    assert from_document(json.loads(json.dumps(document))) == mechanism
    with pytest.raises(UnknownMechanismError, match="only tenant"):
        from_document({**document, "unit": "user"})
    with pytest.raises(UnknownMechanismError, match="only user"):
        from_document({**to_document(TRAINING), "unit": "tenant"})
    same = Gaussian(sensitivity=2.0, standard_deviation=8.0, purpose=ReadPurpose.KPI)
    assert curve_of(mechanism) == curve_of(same)
    assert divergences_of(mechanism) == divergences_of(same)
