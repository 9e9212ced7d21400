"""Nothing is used without consent, and the reason of a refusal is the first one that holds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from privacy.consent.admission import AdmissionRule, Consent, RefusalReason, newer
from privacy.policy.values import TenantPrivacyPolicy

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
POLICY = TenantPrivacyPolicy(declared_users=100, purposes=("training", "evaluation"), retention_days=30)


def said(granted, at=NOW):
    return Consent(granted=granted, notice_version="n1", occurred_at=at)


def refusal(consents, *, policy=POLICY, **changes):
    """Return why an interaction is refused; None where it is admitted."""
    call = {"age": timedelta(0), "domain": "default", "erased": False} | changes
    return AdmissionRule(policy).refusal(consents=consents, **call)


def test_one_consented_purpose_that_the_policy_allows_is_enough():
    assert refusal({"training": said(True), "sharing": said(True), "evaluation": said(False)}) is None
    assert refusal({"training": said(False), "evaluation": said(True)}) is None


@pytest.mark.parametrize(
    ("consents", "changes", "reason"),
    [
        ({}, {}, RefusalReason.CONSENT_MISSING),
        ({"sharing": said(True)}, {}, RefusalReason.CONSENT_MISSING),
        ({"training": said(False)}, {}, RefusalReason.CONSENT_WITHDRAWN),
        (
            {"evaluation": said(True)},
            {"policy": TenantPrivacyPolicy(declared_users=100)},
            RefusalReason.PURPOSE_NOT_ALLOWED,
        ),
        ({"training": said(True)}, {"erased": True}, RefusalReason.SUBJECT_ERASED),
        ({"training": said(True)}, {"domain": "legal"}, RefusalReason.DOMAIN_UNKNOWN),
        (
            {"training": said(True)},
            {"age": timedelta(days=30, seconds=1)},
            RefusalReason.RETENTION_PASSED,
        ),
        ({"training": said(True)}, {"age": -timedelta(hours=1)}, RefusalReason.FROM_THE_FUTURE),
    ],
)
def test_each_refusal_has_its_reason(consents, changes, reason):
    assert refusal(consents, **changes) is reason


def test_the_last_moment_of_retention_is_still_admitted():
    assert refusal({"training": said(True)}, age=POLICY.retention) is None


def test_a_tenant_without_a_policy_is_ingested_when_users_consent():
    assert refusal({"training": said(True)}, policy=None, domain="any") is None
    assert refusal({}, policy=None) is RefusalReason.CONSENT_MISSING


def test_the_later_statement_counts_and_a_withdrawal_wins_a_tie():
    early, late = said(False, NOW - timedelta(seconds=1)), said(True)
    assert newer(early, late) == newer(late, early) == late
    assert newer(said(True), said(False)) == newer(said(False), said(True)) == said(False)
