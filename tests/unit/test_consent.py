"""Nothing is used without consent, and the reason of a refusal is the first one that holds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from privacy.consent import Admitted, Consent, RefusalReason, Refused, admit, newer
from privacy.policy import TenantPrivacyPolicy

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
POLICY = TenantPrivacyPolicy(declared_users=100, purposes=("training", "evaluation"), retention_days=30)


def said(granted, at=NOW):
    return Consent(granted=granted, notice_version="n1", occurred_at=at)


def decide(consents, *, policy=POLICY, **changes):
    call = {"occurred_at": NOW, "domain": "default", "erased": False, "now": NOW} | changes
    return admit(consents=consents, policy=policy, **call)


def test_consent_admits_for_the_purposes_that_the_policy_allows():
    consents = {"training": said(True), "sharing": said(True), "evaluation": said(False)}
    assert decide(consents) == Admitted(frozenset({"training"}))


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
            {"occurred_at": NOW - timedelta(days=30, seconds=1)},
            RefusalReason.RETENTION_PASSED,
        ),
        ({"training": said(True)}, {"occurred_at": NOW + timedelta(hours=1)}, RefusalReason.FROM_THE_FUTURE),
    ],
)
def test_each_refusal_has_its_reason(consents, changes, reason):
    assert decide(consents, **changes) == Refused(reason)


def test_the_last_moment_of_retention_is_still_admitted():
    assert isinstance(decide({"training": said(True)}, occurred_at=NOW - POLICY.retention), Admitted)


def test_a_tenant_without_a_policy_is_ingested_when_users_consent():
    assert decide({"training": said(True)}, policy=None, domain="any") == Admitted(frozenset({"training"}))
    assert decide({}, policy=None) == Refused(RefusalReason.CONSENT_MISSING)


def test_the_later_statement_counts_and_a_withdrawal_wins_a_tie():
    early, late = said(False, NOW - timedelta(seconds=1)), said(True)
    assert newer(early, late) == newer(late, early) == late
    assert newer(said(True), said(False)) == newer(said(False), said(True)) == said(False)
