"""Neighbouring tenants through the whole pipeline, Kafka record to adapter event, with frozen noise, seeds and clock.

One user is taken away, whoever it is and whatever happens to the trainer meanwhile. Everything that can be seen
from outside and is not charged must be the same to the byte: records, keys, headers, dead letters, how rounds end, the
exported ledger, the statement. What is charged may move by its sensitivity: the noisy count by one, the released
numbers by the clipping norm. Of digests and signatures it is asked that nothing but a charged value is under them.

Left out of the comparison is what the removed user was told or sent back, under a key of their own.

With ``DISCREET_TEST_POSTGRES`` and ``DISCREET_TEST_KAFKA``, ``-m slow`` does the same on Apache Kafka and PostgreSQL.
"""

from __future__ import annotations

import json
import re
import shutil
from contextlib import closing, contextmanager

import numpy as np
import pytest

from privacy.boundary.marks import Kind, Mark, leaves
from privacy.boundary.register import BOUNDARY
from privacy.storage.session import open_engine
from streams.contracts.signed_record import SIGNATURE_HEADER
from tests.conftest import KAFKA, POSTGRES, ManualClock
from tests.fakes.pipeline import (
    HEAVY,
    LATE,
    MALFORMED,
    PEOPLE,
    TENANT,
    Pipeline,
    freeze,
)
from tests.fakes.real_delivery import Post, fresh_postgres
from tests.fakes.stream_records import NOW

# So often a round commits; what comes after the last commit that a crash can undo is only the process's end.
COMMITS = 7
# Digests and signatures over charged values. With them equal, so would be what is under them.
DERIVED = {
    "lora.tensor_digest",
    "files.sha256",
    "version_id",
    "uri",
    "signature.signature",
    "privacy.ledger_entry_hash",  # of the commit entry, which names the digest of the released weights
    "lineage.data_digest",  # under a key that is destroyed with the round
    "lineage.supersedes",
}
# Of the exported ledger: the released weights' digest, the keyed digest of the data, and the chain over both.
LEDGER_DERIVED = {
    "document.artifact_digest",
    "document.data_digest",
    "artifact_digest",
    "data_digest",
    "previous_digest",
    "digest",
    "head.digest",
}


@contextmanager
def sqlite_copy(template, place):
    """An engine over a copy of a migrated database in a new folder."""
    place.mkdir(parents=True)
    shutil.copyfile(template, place / "world.db")
    engine = open_engine(f"sqlite:///{place / 'world.db'}")
    try:
        yield engine
    finally:
        engine.dispose()


@pytest.fixture(scope="module")
def worlds(tmp_path_factory, sqlite_template):
    """Return what is seen of people under a crash, each worked out once."""
    folder = tmp_path_factory.mktemp("pipelines")
    known = {}
    with pytest.MonkeyPatch.context() as patch:
        again = freeze(patch)

        def seen(people, *, crash=None, durable=False, deed=None, leaver=None):
            mine = (deed, leaver) if deed and leaver in people else (None, None)
            asked = (people, crash, durable, *mine)
            if asked not in known:
                place = folder / str(len(known))
                with sqlite_copy(sqlite_template, place) as engine:
                    again()
                    pipeline = Pipeline(engine, ManualClock(NOW), place)
                    known[asked] = pipeline.run(
                        people, crash=crash, durable=durable, deed=mine[0], leaver=mine[1]
                    )
            return known[asked]

        yield seen


LEAVERS = {
    "first": (PEOPLE[0], None),
    "middle": (PEOPLE[4], None),
    "last": (PEOPLE[-1], None),
    "heaviest": (HEAVY, None),
    "malformed": (MALFORMED, None),
    "late consent": (LATE, None),
    "withdraws": (PEOPLE[2], "withdraws"),
    "is erased": (PEOPLE[6], "is erased"),
}
CRASHES = [
    (None, False),
    *((at, False) for at in range(1, COMMITS + 1)),
    *((at, True) for at in range(1, COMMITS + 2)),
]


@pytest.mark.parametrize(("crash", "durable"), CRASHES, ids=str)
@pytest.mark.parametrize("who", LEAVERS)
def test_whoever_leaves_moves_nothing_but_what_is_charged(worlds, who, crash, durable):
    leaver, deed = LEAVERS[who]
    everyone = worlds(PEOPLE, crash=crash, durable=durable, deed=deed, leaver=leaver)
    without = worlds(
        tuple(name for name in PEOPLE if name != leaver),
        crash=crash,
        durable=durable,
        deed=deed,
        leaver=leaver,
    )
    assert differences(everyone, without, leaver) == []
    assert_charged(everyone, without)


def test_the_replay_publishes_and_crashes(worlds):
    """Without that nothing above would mean anything."""
    plain = worlds(PEOPLE)
    assert [outcome[1] for outcome in plain.rounds] == ["published"]
    (one,) = plain.trained
    assert np.abs(one).max() > 0
    outcomes = {worlds(PEOPLE, crash=at, durable=durable).rounds[0][1] for at, durable in CRASHES}
    assert outcomes == {"published", "forfeited"}
    topics = {record[0] for record in plain.records}
    assert {"discreet.adapter-events.v1", "discreet.adapters.v1", "discreet.interactions.dlq.v1"} <= topics
    assert np.linalg.norm(one - worlds(PEOPLE[:-1]).trained[0]) > 0.5  # a user does move the release


@pytest.mark.parametrize("who", ["first", "malformed", "withdraws"])
def test_a_round_with_too_few_users_says_so_by_the_noisy_count_alone(
    who, sqlite_template, tmp_path, monkeypatch
):
    leaver, deed = LEAVERS[who]
    again = freeze(monkeypatch)
    seen = []
    for people in (PEOPLE, tuple(name for name in PEOPLE if name != leaver)):
        with sqlite_copy(sqlite_template, tmp_path / str(len(seen))) as engine:
            again()
            pipeline = Pipeline(
                engine, ManualClock(NOW), tmp_path / str(len(seen)), policy={"minimum_cohort": 60}
            )
            seen.append(pipeline.run(people, deed=deed, leaver=leaver))
    counts = []
    for world in seen:
        ((state, code, reason),) = world.rounds
        assert (state, code) == ("declined", "cohort_too_small")
        (count,) = re.findall(r"is (-?\d+);", reason)
        counts.append(int(count))
        world.rounds = [reason.replace(count, "…")]  # charged: the same but for the count
    assert abs(counts[0] - counts[1]) == 1
    assert differences(*seen, leaver) == []


def test_a_leak_in_the_pipeline_is_seen(worlds, tmp_path, sqlite_template, monkeypatch):
    """One user fewer, and an exact count in a round's outcome."""
    from personalization.rounds import queries

    close = queries.close_round
    again = freeze(monkeypatch)
    found = []
    for people in (PEOPLE, PEOPLE[1:]):
        place = tmp_path / str(len(found))
        again()
        said = f"A new version of {len(people)} users was published."
        monkeypatch.setattr(
            queries,
            "close_round",
            lambda session, row, state, code, reason, said=said, **how: close(
                session, row, state, code, said, **how
            ),
        )
        with sqlite_copy(sqlite_template, place) as engine:
            found.append(Pipeline(engine, ManualClock(NOW), place).run(people))
    assert differences(*found, PEOPLE[0]) != []


def differences(one, other, leaver):
    """Return where two worlds differ in what is not charged."""
    found = []
    mine = f"{TENANT}/{leaver}".encode()
    ours, theirs = (
        [record for record in world.records if not record[1].startswith(mine)] for world in (one, other)
    )
    found += _records_differ(ours, theirs)
    if one.rounds != other.rounds:
        found.append(("rounds", one.rounds, other.rounds))
    found += [
        ("manifest", name)
        for a, b in zip(one.manifests, other.manifests, strict=True)
        for name in _changed(a, b)
        if name not in DERIVED and BOUNDARY.mark_of(Kind.MANIFEST, name) is not Mark.CHARGED
    ]
    found += [
        ("ledger", number, name)
        for number, (a, b) in enumerate(zip(one.ledger, other.ledger, strict=True))
        for name in _changed(_opened(a), _opened(b))
        if name not in LEDGER_DERIVED
    ]
    if _without_digests(one.statement) != _without_digests(other.statement):
        found.append(("statement", one.statement, other.statement))
    return found


def _records_differ(ours, theirs):
    found = []
    if [record[:2] for record in ours] != [record[:2] for record in theirs]:
        return [("records", [record[:2] for record in ours], [record[:2] for record in theirs])]
    for (topic, _, headers, value), (_, _, other_headers, other_value) in zip(ours, theirs, strict=True):
        # The signature is over the value; everything else in the headers is not.
        same = value == other_value
        if headers != other_headers if same else _unsigned(headers) != _unsigned(other_headers):
            found.append((topic, "headers", headers, other_headers))
        if value == other_value:
            continue
        kind = Kind.ADAPTER_STATE if topic == "discreet.adapters.v1" else Kind.ADAPTER_EVENT
        if not topic.startswith("discreet.adapter"):
            found.append((topic, "value", value, other_value))
            continue
        for name in _changed(json.loads(value), json.loads(other_value)):
            inside = name.removeprefix("adapter.").removeprefix("manifest.")
            if inside not in DERIVED and BOUNDARY.mark_of(kind, name) is not Mark.CHARGED:
                found.append((topic, name))
    return found


def _unsigned(headers):
    return [(name, value) for name, value in headers if name != SIGNATURE_HEADER]


def _changed(one, other):
    """Return the dotted names whose values differ."""
    first, second = _values(one), _values(other)
    return sorted({name for name in first.keys() | second.keys() if first.get(name) != second.get(name)})


def _values(document):
    values = {}
    for name in set(leaves(document)):
        values[name] = json.dumps(_at(document, name.split(".")), sort_keys=True)
    return values


def _at(value, path):
    if isinstance(value, list):
        return [_at(one, path) for one in value]
    if not path or not isinstance(value, dict):
        return value
    return _at(value.get(path[0]), path[1:])


def _opened(line):
    """A ledger line with its document read."""
    document = line.get("document")
    return {**line, "document": json.loads(document)} if isinstance(document, str) else line


def _without_digests(text):
    return re.sub(r"(sha256:)?[0-9a-f]{64}", "…", text)


def assert_charged(one, other):
    """What is charged moves by its sensitivity at most."""
    for a, b in zip(one.trained, other.trained, strict=True):
        assert np.linalg.norm(a - b) <= 1 + 1e-4  # the clipping norm; float32 holds the rest of the digits
    for a, b in zip(one.manifests, other.manifests, strict=True):
        assert abs(a["privacy"]["noisy_cohort"] - b["privacy"]["noisy_cohort"]) <= 1


@pytest.mark.slow
@pytest.mark.skipif(not (POSTGRES and KAFKA), reason="needs DISCREET_TEST_POSTGRES and DISCREET_TEST_KAFKA")
@pytest.mark.parametrize(("crash", "durable"), [(None, False), (3, True), (5, False), (5, True), (7, False)])
@pytest.mark.parametrize("who", LEAVERS)
def test_the_same_on_kafka_and_postgresql(who, crash, durable, postgres_template, tmp_path, monkeypatch):
    leaver, deed = LEAVERS[who]
    again = freeze(monkeypatch)
    seen = []
    for people in (PEOPLE, tuple(name for name in PEOPLE if name != leaver)):
        with fresh_postgres(POSTGRES, postgres_template) as engine, closing(Post(KAFKA)) as post:
            again()
            pipeline = Pipeline(engine, ManualClock(NOW), tmp_path / str(len(seen)), post=post)
            seen.append(pipeline.run(people, crash=crash, durable=durable, deed=deed, leaver=leaver))
    assert seen[0].rounds[0][1] == ("forfeited" if crash == 5 else "published")
    assert differences(*seen, leaver) == []
    assert_charged(*seen)
