"""A version of terms is read back as it was written, and one without a list to vote over keeps its digest."""

from __future__ import annotations

import pytest

from personalization.errors import TermsError
from personalization.terms.values import MOST_PROPOSED, TermList, TermPair

ACME, GREY, GRAY = (
    TermPair(written=written, meant=meant)
    for written, meant in (("ack me", "Acme"), ("Gry", "grey"), ("gry", "gray"))
)


def test_a_list_is_read_back_as_it_was_written():
    terms = TermList(pairs=(ACME,), removed=("0" * 12,)).proposing([GREY, GRAY, GREY])
    assert terms.proposed == (GRAY, GREY), "of one written side there may be several"
    assert TermList.from_document(terms.to_document()) == terms
    assert terms.without("GRY").proposed == ()
    assert terms.without("ack me").proposed == terms.proposed


def test_a_list_without_proposals_keeps_the_digest_that_it_had():
    assert "proposed" not in TermList(pairs=(ACME,)).to_document()
    assert TermList().version_id != TermList().proposing([ACME]).version_id


def test_more_than_can_be_voted_over_are_refused():
    many = [TermPair(written=f"wrong {number}", meant="right") for number in range(MOST_PROPOSED + 1)]
    with pytest.raises(TermsError, match="at most 200"):
        TermList().proposing(many)
