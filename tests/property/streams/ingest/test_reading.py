"""What ingest recognizes without the contract's validator, the validator accepts with the same values."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from streams.contracts.codec import encode
from streams.contracts.envelope import new_envelope
from streams.contracts.interaction import Accepted, InteractionV1
from streams.contracts.topics import INTERACTION_RECORDED
from streams.ingest.reading import InteractionReader
from tests.fakes.stream_records import NOW, FakeRecord

EVENT = InteractionV1(
    tenant_id="acme", user_id="u-1", interaction_id="i-1", prompt="a question", completion="an answer",
    outcome=Accepted(), notice_version="2026-01", occurred_at=NOW,
)  # fmt: skip
ENVELOPE = new_envelope(event_id="i-1", source="urn:shop", event_type=INTERACTION_RECORDED, time=NOW)
REGULAR = encode(EVENT, ENVELOPE)
DOCUMENT = json.loads(REGULAR.value)

texts = st.text(max_size=6) | st.sampled_from(
    [
        "",
        "acme",
        "acme\n",
        "u 1",
        "u\x7f",
        "i-1\n",
        "Ü",
        "\ud800",
        "x" * 129,
        "x" * 257,
        "y" * 16_385,
        "default",
    ]
)
times = st.sampled_from(
    ["2026-01-01T00:00:00Z", "2026-01-01T00:00:00.123456Z", "2026-01-01T00:00:00.1234567Z", "2026-01-01 00:00:00Z",
     "2026-02-30T00:00:00Z", "2026-01-01T24:00:00Z", "2026-01-01T00:00:60Z", "2026-01-01T00:00:00,123456Z",
     "0000-01-01T00:00:00Z", "2026-01-01T00:00:00+02:00", "2026-01-01T00:00:00", "2026-W01-1T00:00:00Z",
     "٢026-01-01T00:00:00Z"]
)  # fmt: skip
outcomes = st.fixed_dictionaries(
    {"kind": st.sampled_from(["accepted", "edited", "rejected", "rating", "correction", "other", 1, None])},
    optional={
        "final_text": texts | st.none(),
        "rating": st.sampled_from([0, 1, 5, 6, True, 1.0, "1"]),
        "more": texts,
    },
)
anything = (
    texts | times | outcomes | st.none() | st.integers() | st.booleans() | st.lists(st.integers(), max_size=1)
)
changes = st.dictionaries(st.sampled_from([*DOCUMENT, "domain", "unknown"]), anything, max_size=3)
headers = st.dictionaries(
    st.sampled_from([name for name, _ in REGULAR.headers] + ["traceparent", "other"]),
    st.none()
    | st.binary(max_size=4)
    | st.sampled_from([b"", b"1.0", b"application/json", b"x" * 257, "é".encode()]),
    max_size=2,
)


def primed():
    """A reader that has seen the regular event, so that its names are known."""
    reader = InteractionReader(65_536)
    reader.read(with_data(DOCUMENT))
    return reader


def same(record):
    reader = primed()
    try:
        regular = reader._regular(record)
    except (TypeError, ValueError, KeyError, AttributeError):
        return False
    if regular is None:
        return False
    assert regular == reader._by_contract(record)
    return True


def with_data(document, record_headers=REGULAR.headers, key=REGULAR.key):
    value = document if isinstance(document, bytes) else json.dumps(document).encode()
    return FakeRecord(value, key, tuple(record_headers))


def test_the_regular_event_is_recognized():
    assert same(with_data(DOCUMENT))
    for outcome in ({"kind": "rating", "rating": 4}, {"kind": "edited", "final_text": "better"}):
        assert same(with_data({**DOCUMENT, "outcome": outcome}))


@given(changes)
def test_changed_data(changed):
    document = {**DOCUMENT, **changed}
    key = f"{document.get('tenant_id')}/{document.get('user_id')}".encode(errors="replace")
    same(with_data(document, key=key))


@given(outcomes)
def test_changed_outcomes(outcome):
    same(with_data({**DOCUMENT, "outcome": outcome}))


@given(times)
def test_changed_times(at):
    same(with_data({**DOCUMENT, "occurred_at": at}))


@given(headers)
def test_changed_headers(changed):
    same(with_data(DOCUMENT, [*REGULAR.headers, *changed.items()]))


@given(st.integers(0, len(REGULAR.value) - 1), st.binary(min_size=1, max_size=3))
def test_changed_bytes(place, inserted):
    value = REGULAR.value[:place] + inserted + REGULAR.value[place + 1 :]
    same(with_data(value))
