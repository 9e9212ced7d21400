"""A record that was changed, moved, left out or put in is found."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from privacy.audit.records import GENESIS, AuditRecord, sealed, verify
from privacy.errors import LedgerIntegrityError

words = st.text(max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
details = st.dictionaries(words, values, max_size=3)


def chain_of(contents, name="acme"):
    records, head = [], GENESIS
    for number, (actor, detail) in enumerate(contents, start=1):
        record = sealed(
            chain=name,
            sequence=number,
            previous_digest=head,
            at=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number),
            actor=actor,
            action="policy.set",
            detail=detail,
        )
        records.append(record)
        head = record.digest
    return records


chains = st.lists(st.tuples(words, details), min_size=2, max_size=6).map(chain_of)


@given(chains)
def test_an_untouched_chain_verifies_also_after_export(records):
    exported = [AuditRecord.from_document(record.to_document()) for record in records]
    assert verify(exported, expected_head=records[-1].digest) == len(records)


@given(chains, st.data())
def test_a_changed_field_is_found(records, data):
    place = data.draw(st.integers(0, len(records) - 1))
    victim = records[place]
    change = data.draw(
        st.sampled_from(
            [
                {"actor": victim.actor + "x"},
                {"action": "policy.set2"},
                {"at": victim.at + timedelta(microseconds=1)},
                {"detail": {**victim.detail, "more": 1}},
                {"chain": "beta"},
                {"sequence": victim.sequence + 1},
                {"previous_digest": "sha256:" + "1" * 64},
                {"digest": "sha256:" + "1" * 64},
            ]
        )
    )
    records[place] = replace(victim, **change)
    with pytest.raises(LedgerIntegrityError):
        verify(records)


@given(chains, st.data())
def test_a_record_left_out_doubled_or_moved_is_found(records, data):
    place = data.draw(st.integers(0, len(records) - 2))
    left_out = records[:place] + records[place + 1 :]
    doubled = [*records[:place], records[place], *records[place:]]
    swapped = [*records[:place], records[place + 1], records[place], *records[place + 2 :]]
    for broken in (left_out, doubled, swapped):
        with pytest.raises(LedgerIntegrityError):
            verify(broken)


@given(chains, st.integers(0, 5))
def test_a_rewritten_past_does_not_meet_a_head_kept_elsewhere(records, cut):
    assume(cut < len(records))
    head = records[-1].digest
    rewritten = chain_of([("someone else", {}) for _ in records])
    with pytest.raises(LedgerIntegrityError):
        verify(records[:cut], expected_head=head)
    with pytest.raises(LedgerIntegrityError):
        verify(rewritten, expected_head=head)
