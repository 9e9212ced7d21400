"""The receipt: read back as it was, signed by the key of its round alone, and silent about users and noise."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest

from personalization.training.jobs.receipt import Receipt, SignedReceipt, public_key_of
from privacy.mechanisms.gaussian import Gaussian
from privacy.mechanisms.private_read import ReadPurpose
from privacy.mechanisms.sampled_gaussian import PoissonSampledGaussian

KEY = bytes(range(32))
RECEIPT = Receipt(
    mechanism=PoissonSampledGaussian(noise_multiplier=1.5, sample_rate=0.25, steps=4, clipping_norm=0.5),
    plan_digest="sha256:" + "0" * 64,
    steps=4,
    noise_count=4000,
    noise_tolerance=0.1,
    noise_ok=True,
    distinct_steps_ok=True,
    coins_ok=True,
    largest_norm_ok=True,
)


def test_a_signed_receipt_is_read_back_from_json_and_verifies():
    signed = SignedReceipt.of(RECEIPT, KEY)
    again = SignedReceipt.from_document(json.loads(json.dumps(signed.to_document())))
    assert again == signed
    again.verify(public_key_of(KEY))
    assert again.receipt.departures == ()


def test_another_key_or_another_value_does_not_verify():
    signed = SignedReceipt.of(RECEIPT, KEY)
    with pytest.raises(ValueError, match="key of its round"):
        signed.verify(public_key_of(bytes(32)))
    longer = replace(RECEIPT.mechanism, steps=200)
    for changed in (replace(RECEIPT, mechanism=longer), replace(RECEIPT, coins_ok=False)):
        with pytest.raises(ValueError, match="key of its round"):
            replace(signed, receipt=changed).verify(public_key_of(KEY))
    with pytest.raises(ValueError, match="key of its round"):
        replace(signed, signature="no base64").verify(public_key_of(KEY))


@pytest.mark.parametrize(
    "change",
    [{"steps": 3}, {"noise_ok": False}, {"distinct_steps_ok": False}, {"coins_ok": False}, {"largest_norm_ok": False}],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_each_departure_is_named(change):
    assert len(replace(RECEIPT, **change).departures) == 1


def test_no_field_holds_a_moment_of_the_noise_or_a_number_of_users():
    """With the noisy sums they would give away what the noise hides; see the module."""
    assert {one.name for one in fields(Receipt)} == {
        "mechanism", "plan_digest", "steps", "noise_count", "noise_tolerance", "noise_ok", "distinct_steps_ok",
        "coins_ok", "largest_norm_ok",
    }  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [{"version": 2}, {"type": "other"}, {"steps": True}, {"users": 3}, {"coins_ok": 1}],
    ids=lambda change: next(iter(change)),
)
def test_another_document_is_refused(change):
    with pytest.raises(ValueError, match="receipt"):
        Receipt.from_document({**RECEIPT.to_document(), **change})


def test_only_a_sampled_gaussian_has_a_receipt():
    other = Gaussian(sensitivity=1.0, standard_deviation=1.0, purpose=ReadPurpose.COHORT_COUNT).to_document()
    with pytest.raises(ValueError, match="Poisson"):
        Receipt.from_document({**RECEIPT.to_document(), "mechanism": other})


def test_the_signature_is_not_shown():
    assert "signature" not in repr(SignedReceipt.of(RECEIPT, KEY))
