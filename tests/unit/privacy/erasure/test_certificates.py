"""An erasure has a legal deadline, moves one way, and its certificate names no user."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from privacy.erasure.certificates import Erasure, ErasureCertificate, ErasureState, deadline

AT = datetime(2026, 1, 31, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("asked", "due"),
    [
        (AT, datetime(2026, 2, 28, 10, tzinfo=UTC)),
        (datetime(2027, 12, 5, tzinfo=UTC), datetime(2028, 1, 5, tzinfo=UTC)),
        (datetime(2028, 1, 30, tzinfo=UTC), datetime(2028, 2, 29, tzinfo=UTC)),
    ],
)
def test_the_deadline_is_one_month_later(asked, due):
    assert deadline(asked) == due


def test_an_erasure_moves_one_way_and_ends():
    erasure = Erasure(tenant_id="acme", erasure_id="r1", requested_at=AT)
    assert erasure.deadline_at == deadline(AT)
    erasing = erasure.advanced(AT)
    completed = erasing.advanced(AT)
    assert [erasing.state, completed.state] == [ErasureState.ERASING, ErasureState.COMPLETED]
    assert completed.completed_at == AT
    with pytest.raises(ValueError, match="completed"):
        completed.advanced(AT)


def test_a_certificate_survives_its_document_and_says_what_remains():
    certificate = ErasureCertificate(
        tenant_id="acme",
        erasure_id="r1",
        requested_at=AT,
        issued_at=AT,
        keys_destroyed=1,
    )
    assert "No released adapter" in certificate.statement
    covered = certificate.with_adapters(["a-2-v1", "a-1-v1"])
    assert covered.live_adapters == ("a-1-v1", "a-2-v1")
    assert "2 adapter versions" in covered.statement
    assert ErasureCertificate.from_document(covered.to_document()) == covered
    # Those of earlier versions also told how much the user had stored; it is not shown any more.
    earlier = {**covered.to_document(), "signals_erased": 3, "consents_erased": 2}
    assert ErasureCertificate.from_document(earlier) == covered
    assert "3" not in covered.statement
