"""What ingest recognizes without the contract's validator, the validator accepts with the same values."""

from __future__ import annotations

import json
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from streams.contracts.codec import encode
from streams.contracts.envelope import new_envelope
from streams.contracts.fields import utc_text
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
SHARE = 0.15  # of the examples of each property; 0.3 and more were counted

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
# The contract's years are 1970 to 9998; most of these are ours.
spans = st.timedeltas(timedelta(days=-30_000), timedelta(days=300_000))
regular_times = spans.map(lambda span: utc_text(NOW + span))
times = regular_times | st.sampled_from(
    ["2026-01-01T00:00:00Z", "2026-01-01T00:00:00.123456Z", "2026-01-01T00:00:00.1234567Z", "2026-01-01 00:00:00Z",
     "2026-02-30T00:00:00Z", "2026-01-01T24:00:00Z", "2026-01-01T00:00:60Z", "2026-01-01T00:00:00,123456Z",
     "0000-01-01T00:00:00Z", "2026-01-01T00:00:00+02:00", "2026-01-01T00:00:00", "2026-W01-1T00:00:00Z",
     "1969-12-31T23:59:59Z", "1970-01-01T00:00:00Z", "9998-12-31T23:59:59Z", "9999-01-01T00:00:00Z",
     "٢026-01-01T00:00:00Z"]
)  # fmt: skip
plain = st.text("abc é😀", min_size=1, max_size=6)
regular_outcomes = st.one_of(
    st.fixed_dictionaries({"kind": st.sampled_from(["accepted", "rejected"])}),
    st.fixed_dictionaries({"kind": st.sampled_from(["edited", "correction"]), "final_text": plain}),
    st.fixed_dictionaries({"kind": st.just("rating"), "rating": st.integers(1, 5)}),
)
outcomes = regular_outcomes | st.fixed_dictionaries(
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
regular_changes = st.fixed_dictionaries(
    {},
    optional={
        "user_id": st.text("ab-/", min_size=1, max_size=6),
        "prompt": plain,
        "completion": plain,
        "outcome": regular_outcomes,
        "occurred_at": regular_times,
    },
)
changes = regular_changes | st.dictionaries(
    st.sampled_from([*DOCUMENT, "domain", "unknown"]), anything, max_size=3
)
regular_headers = st.dictionaries(
    st.sampled_from(["other", "more"]), st.binary(max_size=9).map(bytes.hex).map(str.encode)
)
headers = regular_headers | st.dictionaries(
    st.sampled_from([name for name, _ in REGULAR.headers] + ["traceparent", "other"]),
    st.none()
    | st.binary(max_size=4)
    | st.sampled_from([b"", b"1.0", b"application/json", b"x" * 257, "é".encode()]),
    max_size=2,
)


def recognized(record):
    """Read ``record`` as ingest does, compare with the contract, and say whether the validator was spared."""
    reader = InteractionReader(65_536)
    reader.read(with_data(DOCUMENT))  # so that its names are known
    by_contract, asked = reader._by_contract, []
    reader._by_contract = lambda one: (asked.append(one), by_contract(one))[1]
    assert reader.read(record) == by_contract(record)
    return not asked


def share_recognized(examples, record_of):
    """Compare every example with the contract and return the share that the validator was spared."""
    seen = []

    @given(examples)
    def compare(example):
        seen.append(recognized(record_of(example)))

    compare()
    return sum(seen) / len(seen)


def with_data(document, record_headers=REGULAR.headers, key=REGULAR.key):
    value = document if isinstance(document, bytes) else json.dumps(document).encode()
    return FakeRecord(value, key, tuple(record_headers))


def with_changes(changed):
    document = {**DOCUMENT, **changed}
    key = f"{document.get('tenant_id')}/{document.get('user_id')}".encode(errors="replace")
    return with_data(document, key=key)


def test_the_regular_event_is_recognized():
    assert recognized(with_data(DOCUMENT))
    for outcome in ({"kind": "rating", "rating": 4}, {"kind": "edited", "final_text": "better"}):
        assert recognized(with_data({**DOCUMENT, "outcome": outcome}))


# The properties say something only where the short way is taken, so each asks for a share well below what was counted.


def test_changed_data():
    assert share_recognized(changes, with_changes) > SHARE


def test_changed_outcomes():
    assert share_recognized(outcomes, lambda outcome: with_data({**DOCUMENT, "outcome": outcome})) > SHARE


def test_changed_times():
    assert share_recognized(times, lambda at: with_data({**DOCUMENT, "occurred_at": at})) > SHARE


def test_changed_headers():
    changed = headers.map(lambda these: with_data(DOCUMENT, [*REGULAR.headers, *these.items()]))
    assert share_recognized(changed, lambda record: record) > SHARE


def test_changed_bytes():
    def with_bytes(change):
        place, inserted = change
        return with_data(REGULAR.value[:place] + inserted + REGULAR.value[place + 1 :])

    in_a_text = REGULAR.value.index(b"a question")
    places = st.tuples(
        st.integers(0, len(REGULAR.value) - 1) | st.integers(in_a_text, in_a_text + 9),
        st.binary(min_size=1, max_size=3) | plain.map(str.encode),
    )
    assert share_recognized(places, with_bytes) > SHARE
