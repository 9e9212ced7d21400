"""The canonical JSON is frozen: whoever changed a byte of it would void every digest that is stored."""

import math
from datetime import UTC, datetime

import pytest

from personalization.planning.plan import TrainingPlan, mechanism_of
from privacy.audit.records import AuditRecord
from privacy.canonical import canonical_json, canonical_text, digest_of, sha256_digest
from privacy.ledger import chain
from privacy.policy.values import TenantPrivacyPolicy

VALUE = {"b": "ε", "a": [1, 2.5, None]}


def test_both_spellings_sort_keys_and_leave_no_white_space():
    assert canonical_json(VALUE) == '{"a":[1,2.5,null],"b":"ε"}'.encode()
    assert canonical_json(VALUE, ascii_only=True) == b'{"a":[1,2.5,null],"b":"\\u03b5"}'
    assert digest_of(VALUE) == sha256_digest(canonical_text(VALUE).encode())


def test_the_ledger_spells_in_ascii():
    assert chain.canonical(VALUE) == canonical_text(VALUE, ascii_only=True)
    assert chain.digest_of(VALUE) == "sha256:94ce7bf2df2e5e99ff10dcd61e28849a61538a17ae8e95a527ad073311d72db2"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_number_that_json_cannot_hold_is_refused(bad):
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"epsilon": bad})


def test_stored_digests_stay_valid():
    """These three were computed before the canonical JSON had one home."""
    policy = TenantPrivacyPolicy(declared_users=100, period_epsilon=1.5)
    assert policy.digest() == "sha256:dc9c6f9a24609e9373522fd1fc4e56599c394c53dc5a398d64b3db738c791b28"
    record = AuditRecord(
        chain="acme",
        sequence=3,
        at=datetime(2026, 1, 2, tzinfo=UTC),
        actor="Zoë",
        action="policy.changed",
        detail={"b": 1, "a": "ε"},
        previous_digest="x",
        digest="y",
    )
    assert (
        record.recomputed_digest()
        == "sha256:4648e33483e489a90dffd2d42ca8c84c15f62ae854dd4bbf0148f66934a6adba"
    )
    plan = TrainingPlan(
        mechanism=mechanism_of(
            noise_multiplier=1.5, sample_rate=0.5, steps=30, clipping_norm=1.0, contribution_bound=8
        ),
        expected_cohort=50.0,
        learning_rate=0.5,
    )
    assert plan.digest() == "sha256:7d6d8233b7b0b76e099f2575e19b4305408241cb0afb0768f48dd0bbb5f5ada8"
