"""The neighbour at ingest: without any one user, all that is kept of every other user is the same, byte for byte.

Real handlers behind real intakes, on SQLite. The events of several users of two tenants share their ids, come early,
late, malformed, in floods, and make the code fail. Then one user is left out, and what is stored of the others is
compared: signals (decrypted: keys and nonces are random), consents, erasures, and the letters.

Slots are the public clock: a user's events do not move when another's are left out, but the batches around them do.
Request ids of erasures are each user's own here: of two persons with one the second is refused, which is said in
``tests/integration/streams/ingest/test_identity.py``.
"""

import asyncio
from collections import defaultdict
from dataclasses import replace
from datetime import timedelta
from typing import NamedTuple

import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st
from sqlmodel import select

from personalization.signals.rows import SignalRow
from personalization.signals.values import row_of
from privacy.consent.tables import ConsentRow
from privacy.erasure.tables import ErasureRow
from privacy.keys.keyring import Sealed
from privacy.storage.session import transaction
from streams.broker.progress import PartitionProgress
from streams.broker.records import RecordRun
from streams.contracts.consent import ConsentPurpose
from streams.contracts.interaction import Accepted, Edited, Rating, Rejected
from streams.ingest import intake as intakes
from streams.ingest.intake import Intake
from streams.settings import IngestSettings
from tests.fakes.ingest_world import IngestWorld, copied_engine
from tests.fakes.stream_records import NOW, consent, erasure, interaction

TENANTS = ("acme", "beta")
USERS = [(tenant, user) for tenant in TENANTS for user in ("alice", "bob", "carol")]
SEATS = 4
WAIT_SLOTS = 3
SLOTS = 6


class Op(NamedTuple):
    """What a user does in a slot; ``detail`` picks among the forms of a kind."""

    slot: int
    user: tuple[str, str]
    kind: str
    event_id: str
    detail: int


def _ops(kinds, slots, fewest, most):
    return st.lists(
        st.builds(
            Op,
            slot=slots,
            user=st.sampled_from(USERS),
            kind=st.sampled_from(kinds),
            event_id=st.sampled_from(["1", "2", "3"]),
            detail=st.integers(0, 5),
        ),
        min_size=fewest,
        max_size=most,
    )


GRANTS = st.dictionaries(st.sampled_from(USERS), st.integers(0, 2), min_size=3).map(
    lambda slots: [Op(slot, user, "grant", "1", 0) for user, slot in slots.items()]
)
OPS = st.tuples(
    GRANTS,
    _ops(["interaction"], st.integers(0, SLOTS - 1), 10, 30),
    _ops(["grant", "withdraw", "erase", "malformed", "early flood", "bug"], st.integers(1, SLOTS - 1), 0, 8),
).map(lambda parts: [op for part in parts for op in part])


class Clock:
    """The monotonic clock of the intakes, moved by hand."""

    def __init__(self):
        self.now = 1_000.0

    def monotonic(self):
        return self.now

    def perf_counter(self):
        return self.now


def records_of(op, number):
    """Return (topic, record) of an op; ``number`` tells a user's own ops apart, whoever else does something."""
    tenant, user = op.user
    at = NOW - timedelta(hours=1) + timedelta(minutes=number)
    who = {"tenant": tenant}
    if op.kind == "interaction":
        forms = [Accepted(), Edited(final_text="better"), Rating(rating=5), Rejected(), Rating(rating=3)]
        form = forms[op.detail % len(forms)]
        prompt = f"{user} asks {op.event_id}"
        return [("interactions", interaction(user, op.event_id, at=at, prompt=prompt, outcome=form, **who))]
    if op.kind == "early flood":
        return [
            ("interactions", interaction(user, f"flood-{n}", at=at, prompt=f"{user} floods {n}", **who))
            for n in range(SEATS + 1 + 4 * op.detail)
        ]
    if op.kind == "bug":
        return [("interactions", interaction(user, op.event_id, at=at, prompt="boom", **who))]
    if op.kind == "malformed":
        good = interaction(user, op.event_id, at=at, **who)
        forms = [
            replace(good, value=b"{"),
            replace(good, value=None),
            replace(good, headers=good.headers[1:]),
            replace(good, value=good.value.replace(b'"prompt"', b'"pr"')),
            interaction(user, op.event_id, at=at + timedelta(days=3), **who),
            interaction(user, op.event_id, at=at, domain="elsewhere", **who),
        ]
        return [("interactions", forms[op.detail])]
    if op.kind == "erase":
        return [("erasures", erasure(user, request_id=f"{user}-{op.event_id}", at=at, **who))]
    purpose = ConsentPurpose.EVALUATION if op.detail == 5 else ConsentPurpose.TRAINING
    made = consent(user, granted=op.kind == "grant", at=at, purpose=purpose, **who)
    headers = tuple(
        (name, op.event_id.encode() if name == "ce_id" else value) for name, value in made.headers
    )
    return [("consents", replace(made, headers=headers))]


def streams(ops):
    """Return slot → topic → records in order, each op's number counted among its own user's."""
    numbers = defaultdict(int)
    found = defaultdict(lambda: defaultdict(list))
    for op in sorted(ops, key=lambda op: op.slot):
        numbers[op.user] += 1
        for topic, record in records_of(op, numbers[op.user]):
            found[op.slot][topic].append(record)
    return found


@pytest.fixture(scope="module")
def prepared(sqlite_template, tmp_path_factory):
    """A database with both tenants and their keys, and the world's secrets: the same for both sides of a comparison."""
    folder = tmp_path_factory.mktemp("neighbours")
    with copied_engine(sqlite_template, folder) as engine:
        world = IngestWorld(engine, tenants=TENANTS)
        with transaction(engine) as session:
            for tenant in TENANTS:
                world.keyring.tenant_keys(session, tenant, now=NOW)
    return folder / "copy.db", world.master_key, tmp_path_factory.mktemp("side")


def outcome_of(prepared, ops, size, clock):
    """Run the ops and return what is kept of each user."""
    template, master_key, folder = prepared
    with copied_engine(template, folder) as engine:
        world = IngestWorld(engine, tenants=(), master_key=master_key, redact=redact)
        # The guard of slowed tenants only delays; here nothing is late.
        quiet = IngestSettings(
            consent_wait_seconds=float(WAIT_SLOTS),
            consent_wait_events_per_user=SEATS,
            poison_share=2.0,
            retry_initial_seconds=0.001,
            retry_max_seconds=0.001,
        )
        handlers = {
            "consents": world.consents,
            "erasures": world.erasures,
            "interactions": world.interactions,
        }
        topics = {name: Intake(name, handler, quiet) for name, handler in handlers.items()}
        progress = {name: PartitionProgress() for name in topics}
        offsets = dict.fromkeys(topics, 0)
        planned = streams(ops)

        async def main():
            for slot in range(SLOTS + WAIT_SLOTS + 2):
                clock.now += 1.0
                for name, topic in topics.items():
                    records = planned[slot][name]
                    for start in range(0, len(records) or 1, size):
                        batch = []
                        for record in records[start : start + size]:
                            batch.append(replace(record, offset=offsets[name]))
                            offsets[name] += 1
                        if batch:
                            progress[name].deliver(batch[0].offset, batch[-1].offset)
                        await topic._process([RecordRun(batch, progress[name])] if batch else [])

        asyncio.run(main())
        assert all(topic.held == 0 for topic in topics.values())
        return kept(world)


def redact(texts):
    if "boom" in texts:
        raise RuntimeError("a bug that one user's text provokes")
    return texts


def kept(world):
    found = {user: defaultdict(list) for user in USERS}
    with transaction(world.engine) as session:
        names = {}
        for tenant, user in USERS:
            hashes = world.keyring.tenant_keys(session, tenant, now=NOW).hashes
            names[tenant, hashes.pseudonym(user)] = tenant, user
        for row in session.exec(select(SignalRow).order_by(SignalRow.event_digest)):
            place = row_of(row.event_digest, row.domain, row.period_index, row.rank, row.occurred_at)
            (plain,) = world.keyring.decrypt_many(
                session, row.tenant_id, [Sealed(row.pseudonym, place, row.ciphertext)]
            )
            found[names[row.tenant_id, row.pseudonym]]["signals"].append(
                (row.event_digest, row.domain, row.period_index, row.rank, row.occurred_at, plain)
            )
        for row in session.exec(select(ConsentRow)):
            found[names[row.tenant_id, row.pseudonym]]["consents"].append(row.model_dump())
        for row in session.exec(select(ErasureRow)):
            certificate = {
                k: v for k, v in row.certificate.items() if k != "audit_digest"
            }  # the tenant's chain
            found[names[row.tenant_id, row.pseudonym]]["erasures"].append(certificate)
    for letter in world.sender.sent:
        headers = dict(letter.headers)
        tenant, user = letter.key.decode().split("/")[:2]
        reason = headers["discreet_dlq_reason"], headers["discreet_dlq_detail"], letter.value
        found[tenant, user]["letters"].append(reason)
    for one in found.values():
        for rows in one.values():
            rows.sort(key=repr)
    return {user: dict(one) for user, one in found.items()}


ALICE, BOB = USERS[0], USERS[1]
GRANTED = [Op(0, BOB, "grant", "1", 0), Op(1, BOB, "interaction", "2", 0)]


@settings(max_examples=40)
@given(ops=OPS, gone=st.sampled_from(USERS), size=st.sampled_from([1, 3, 50]))
@example(ops=[Op(0, ALICE, "interaction", "2", 0), *GRANTED], gone=ALICE, size=50)  # her refusal, his id
@example(ops=[Op(0, ALICE, "grant", "1", 0), *GRANTED], gone=ALICE, size=50)  # her consent, his id
@example(  # her flood, his early event
    ops=[Op(0, ALICE, "early flood", "1", 5), Op(0, BOB, "interaction", "2", 0), Op(1, BOB, "grant", "1", 0)],
    gone=ALICE,
    size=3,
)
@example(ops=[*GRANTED, Op(1, ALICE, "grant", "1", 0), Op(1, ALICE, "bug", "2", 0)], gone=ALICE, size=50)
def test_without_any_one_user_what_is_kept_of_every_other_is_the_same(prepared, ops, gone, size):
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock()
        patch.setattr(intakes, "time", clock)
        everybody = outcome_of(prepared, ops, size, clock)
        without = outcome_of(prepared, [op for op in ops if op.user != gone], size, clock)
    event(f"others with signals: {sum('signals' in everybody[user] for user in USERS if user != gone)}")
    assert without.pop(gone) == {}
    everybody.pop(gone)
    assert without == everybody
