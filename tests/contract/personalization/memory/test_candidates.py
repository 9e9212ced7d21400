"""Changed documents are tried on a share of the users, on every store: who gets them, and what becomes of them."""

from __future__ import annotations

import json

import pytest
from sqlmodel import col, select, update
from structlog.testing import capture_logs

from personalization.errors import MemoryDocumentError, MemoryMoveError, MemoryNotFoundError
from personalization.memory import (
    candidates,
    documents,
    histories,
    pgvector,
    queries,
    restoring,
    trying,
    versions,
)
from personalization.memory.documents import Place, prepared
from personalization.memory.pgvector import PgVectors
from personalization.memory.sealing import MemoryKeys
from personalization.memory.search import MemorySearch, SearchRules
from personalization.memory.tables import MemoryCandidateRow, MemoryDocumentRow
from personalization.memory.values import Draft, Fate, Outcome, Unsigned
from personalization.registry import remembering
from privacy.audit import trail as audit_trail
from privacy.policy import versions as policies
from privacy.storage.session import reading, transaction
from streams.gateway.choosing import within_share
from streams.outbox.events import OutboxAdapterEvents
from streams.outbox.tables import OutboxRow
from tests.fakes.embedders import WordHashes

KEYS = MemoryKeys(bytes(range(32)))
REFUNDS = "A refund takes 14 days after the parcel is back."
LATER = REFUNDS.replace("14", "21")
SECRET = "The parcel of the secret refund takes 3 days."
QUESTION = "how many days does a refund take"
ON_ONE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
USERS = [f"user{number}" for number in range(400)]


class Shelf:
    """One installation's memory."""

    def __init__(self, engine, clock, embedder=None, near=None):
        self.engine, self.clock, self.embedder = engine, clock, embedder
        self.search = MemorySearch(
            engine, KEYS, embedder, rules=SearchRules(passages=4, floor=0.1), near=near
        )

    def place(self, tenant="acme", **more):
        return Place(tenant_id=tenant, collection="default", actor="ann", now=self.clock.now(), **more)

    def cut(self, texts):
        return prepared(
            [Draft(document_id=name, title="", text=text) for name, text in texts.items()], self.embedder
        )

    def add(self, tenant="acme", **texts):
        with transaction(self.engine) as session:
            return documents.add(session, KEYS, self.place(tenant), self.cut(texts))

    def attempt(self, percent=None, tenant="acme", **texts):
        with transaction(self.engine) as session:
            return trying.attempt(session, KEYS, self.place(tenant), self.cut(texts), percent)

    def promote(self, keys=KEYS):
        with transaction(self.engine) as session:
            return trying.promote(session, keys, self.place(reason="it answers better"))

    def abandon(self):
        with transaction(self.engine) as session:
            return trying.abandon(session, self.place())

    def remove(self, *names, **more):
        with transaction(self.engine) as session:
            return documents.remove(session, KEYS, self.place(), names, **more)

    def back(self, to=None):
        with transaction(self.engine) as session:
            return restoring.roll_back(session, KEYS, self.place(), to)

    def find(self, user=None, tenant="acme"):
        return self.search.find(
            tenant,
            "default",
            QUESTION,
            self.clock.now(),
            within=lambda salt, percent: within_share(salt, user, percent),
        )

    def cited(self, user=None, tenant="acme"):
        return sorted(one.citation.split("/")[1].split("#")[0] for one in self.find(user, tenant).passages)

    def drawn(self):
        """Return a user who is drawn, and one who is not."""
        with reading(self.engine) as session:
            (one,) = candidates.opens(session, "acme")
        inside = [user for user in USERS if within_share(one.salt, user, one.percent)]
        return inside[0], next(user for user in USERS if user not in inside)

    def rows(self, *states):
        with reading(self.engine) as session:
            return [
                row
                for row in queries.listed(session, "acme", ended=True)
                if not states or row.state in states
            ]


@pytest.fixture(
    params=[
        "words_alone",
        pytest.param("by_meaning", marks=pytest.mark.slow),  # through the gateway in each run
        pytest.param("pgvector", marks=pytest.mark.slow),
    ]
)
def shelf(request, engine, clock):
    inside = request.param == "pgvector"
    if inside:
        engine = request.getfixturevalue("pgvector_engine")
    with transaction(engine) as session:
        for tenant in ("acme", "globex"):
            policies.register_tenant(session, tenant, actor="test", now=clock.now())
    near = PgVectors(engine, WordHashes.name) if inside else None
    return Shelf(engine, clock, None if request.param == "words_alone" else WordHashes(), near)


def test_a_share_is_answered_from_the_candidate_always_the_same_and_all_others_from_what_is_live(shelf):
    shelf.add(refunds=REFUNDS, other="The office dog is called Bello.")
    done = shelf.attempt(20, refunds=LATER, more="A refund of more takes 5 days.")
    assert (done.candidate.number, done.candidate.documents) == (2, 2)
    assert [one.fate for one in done.documents] == [Fate.SUPERSEDED, Fate.ADDED]
    salt = done.candidate.salt
    inside = [user for user in USERS if within_share(salt, user, 20)]
    outside = [user for user in USERS if user not in inside]
    assert 35 <= len(inside) <= 135  # of 400: five deviations and more
    first = {user: shelf.cited(user) for user in inside[:6] + outside[:6]}
    assert list(first.values()) == [["more@1", "refunds@2"]] * 6 + [["refunds@1"]] * 6
    fresh = Shelf(shelf.engine, shelf.clock)  # another gateway draws alike
    assert all(fresh.cited(user) == first[user] for user in (inside[0], outside[0]))
    assert shelf.cited() == ["refunds@1"]  # without a name nobody is drawn
    assert shelf.search.find("acme", "default", QUESTION, shelf.clock.now()).candidates == ()
    found, other = shelf.find(inside[0]), shelf.find()
    assert (found.versions, found.candidates) == (("default@1~2",), ("default@2",))
    assert (other.versions, other.candidates) == (("default@1",), ())
    wider = shelf.attempt(60)
    assert (wider.candidate.number, wider.candidate.salt, wider.documents) == (2, salt, ())
    assert shelf.find(inside[0]).candidates == ("default@2",)  # who was drawn stays drawn
    more = next(user for user in outside if within_share(salt, user, 60))
    assert shelf.cited(more) == ["more@1", "refunds@2"]


def test_no_tenant_is_answered_from_anothers_candidate(shelf):
    for tenant in ("acme", "globex"):
        shelf.add(tenant, refunds=REFUNDS)
    shelf.attempt(50, refunds=LATER)
    inside, _ = shelf.drawn()
    assert shelf.cited(inside) == ["refunds@2"]
    assert shelf.cited(inside, "globex") == ["refunds@1"]
    assert shelf.find(inside, "globex").candidates == ()


def test_scores_of_who_is_not_drawn_do_not_move_by_what_is_tried(shelf):
    shelf.add(refunds=REFUNDS, other="The office dog is called Bello.")
    before = [(one.citation, one.score, one.similarity) for one in shelf.find().passages]
    shelf.attempt(50, **{f"d{n}": f"A refund of {n} takes {n} days, or {n} weeks." for n in range(55)})
    assert [(one.citation, one.score, one.similarity) for one in shelf.find().passages] == before


def test_what_is_removed_is_cited_from_neither_and_leaves_nothing(shelf):
    shelf.add(refunds=REFUNDS, secret=SECRET)
    shelf.attempt(50, refunds=LATER, late="A refund of late parcels takes 9 days.")
    inside, outside = shelf.drawn()
    assert shelf.cited(inside) == ["late@1", "refunds@2", "secret@1"]
    shelf.remove("secret")  # of the live collection alone
    assert shelf.cited(inside) == ["late@1", "refunds@2"]
    assert shelf.cited(outside) == ["refunds@1"]
    shelf.remove("refunds")  # of both
    assert shelf.cited(inside) == ["late@1"]
    assert shelf.cited(outside) == []
    gone = [row for row in shelf.rows() if row.document_id == "refunds"]
    assert [row.state for row in gone] == ["superseded", "removed"]
    assert all((row.sealed, row.vectors, row.salt, row.digest) == (None, None, None, "") for row in gone)
    with reading(shelf.engine) as session:
        assert candidates.open_of(session, "acme", "default").documents == 1
    shelf.remove("late")  # the last one that is tried
    with reading(shelf.engine) as session:
        assert candidates.opens(session, "acme") == ()
        decided = [row.decision for row in candidates.moves_of(session, "acme", "default")]
    assert decided == ["tried", "removed", "abandoned"]
    assert shelf.find(inside).outcome is Outcome.NO_MEMORY
    with pytest.raises(MemoryMoveError, match="nothing of the collection 'default' is tried"):
        shelf.promote()
    shelf.add(refunds=LATER + " Or so.")
    assert shelf.cited(inside) == ["refunds@3"]  # no number is used again


def test_what_is_promoted_is_everybodys_and_one_can_go_back(shelf):
    shelf.add(refunds=REFUNDS)
    shelf.attempt(10, refunds=LATER, more="A refund of more takes 5 days.")
    inside, outside = shelf.drawn()
    opened = shelf.search.index("acme").documents
    done = shelf.promote()
    assert (done.candidate, done.version) == (2, 3)
    assert (done.documents, done.replaced) == (("more@1", "refunds@2"), ("refunds@1",))
    for user in (inside, outside, None):
        assert shelf.cited(user) == ["more@1", "refunds@2"]
        assert (shelf.find(user).versions, shelf.find(user).candidates) == (("default@3",), ())
    now = shelf.search.index("acme").documents  # nothing is opened or embedded again
    assert all(now[name] is opened[name] for name in now)
    with reading(shelf.engine) as session:
        told = [
            histories.facts_of(session, KEYS, row, kept=True)
            for row in histories.versions_of(session, "acme", "default")
        ]
    assert [(one["version"], one["decision"], one["signature_holds"]) for one in told] == [
        (1, "added", True),
        (3, "promoted", True),
    ]
    assert shelf.back().brought_back == ("refunds@1",)
    assert shelf.cited(inside) == ["refunds@1"]


def test_what_is_abandoned_leaves_nothing(shelf):
    shelf.add(refunds=REFUNDS)
    shelf.attempt(50, refunds=LATER, secret=SECRET)
    inside, _ = shelf.drawn()
    assert shelf.cited(inside) == ["refunds@2", "secret@1"]
    assert shelf.abandon().number == 2
    assert shelf.cited(inside) == ["refunds@1"]
    assert shelf.find(inside).versions == ("default@1",)
    rows = [row for row in shelf.rows() if row.state != "live"]
    assert [f"{row.document_id}@{row.version}" for row in rows] == ["refunds@2", "secret@1"]
    assert all((row.sealed, row.vectors, row.salt, row.digest) == (None, None, None, "") for row in rows)
    with reading(shelf.engine) as session:
        if pgvector.kept_here(session):
            left = session.connection().exec_driver_sql("SELECT DISTINCT version FROM memory_vectors")
            assert left.scalars().all() == [1]
    with pytest.raises(MemoryMoveError, match="is tried"):
        shelf.abandon()
    assert shelf.attempt(50, refunds=LATER).candidate.number == 3  # and no number is used again
    assert shelf.cited(shelf.drawn()[0]) == ["refunds@3"]


@pytest.fixture
def words(engine, clock):
    """Where neither the way of finding nor the store matters."""
    with transaction(engine) as session:
        policies.register_tenant(session, "acme", actor="test", now=clock.now())
    return Shelf(engine, clock)


@ON_ONE
def test_live_documents_change_under_a_candidate_but_for_those_that_it_changes(words):
    words.add(refunds=REFUNDS)
    words.attempt(50, refunds=LATER)
    inside, outside = words.drawn()
    words.add(secret=SECRET)
    assert words.cited(inside) == ["refunds@2", "secret@1"]
    assert words.cited(outside) == ["refunds@1", "secret@1"]
    assert words.find(inside).versions == ("default@3~2",)
    with pytest.raises(MemoryMoveError, match="another version of 'refunds' is tried"):
        words.add(refunds=REFUNDS + " Or so.")
    assert words.add(refunds=REFUNDS)[0].fate is Fate.UNCHANGED
    words.attempt(refunds=LATER + " Or so.")  # what is tried is put right
    assert words.cited(inside) == ["refunds@3", "secret@1"]
    assert words.rows("superseded")[0].sealed is None
    done = words.back(1)
    assert (done.abandoned, done.set_aside) == (4, ("secret@1",))
    assert words.cited(inside) == ["refunds@1"]
    words.attempt(50, refunds=LATER)
    words.promote()
    words.attempt(50, refunds=LATER + " Or so.")
    words.remove("refunds", earlier=True)  # neither what is live nor what is tried
    assert [words.cited(user) for user in words.drawn()] == [["refunds@5"], ["refunds@4"]]
    assert [row.sealed is None for row in words.rows() if row.document_id == "refunds"] == [True] * 3 + [
        False
    ] * 2


@ON_ONE
def test_a_removal_says_which_candidate_it_took_something_from_and_repeats_after_one_was_abandoned(words):
    words.add(refunds=REFUNDS, other="The office dog is called Bello.")
    words.attempt(50, refunds=LATER, late="A refund of late parcels takes 9 days.")
    words.remove("late")
    words.abandon()
    gone = words.remove("refunds")
    assert [(one.version, one.fate) for one in gone] == [(1, Fate.ADDED)]
    assert [(one.version, one.fate) for one in words.remove("refunds")] == [(1, Fate.UNCHANGED)]
    with reading(words.engine) as session:
        told = [
            one.detail
            for one in audit_trail.read(session, "acme")
            if one.action == "memory.documents_removed"
        ]
    assert [(one["documents"], one.get("candidate")) for one in told] == [
        (["late@1"], 2),
        (["refunds@1"], None),
    ]


@ON_ONE
def test_a_candidate_that_is_not_what_was_signed_is_found_by_nobody_and_not_promoted(words):
    words.add(refunds=REFUNDS)
    words.attempt(50, refunds=LATER)
    inside, outside = words.drawn()
    row = MemoryDocumentRow
    for table, change, undo in (
        (row, {"approved_by": "mallory"}, {"approved_by": "ann"}),
        (MemoryCandidateRow, {"percent": 100.0}, {"percent": 50.0}),
        (MemoryCandidateRow, {"number": 9}, {"number": 2}),
    ):
        where = col(row.version) == 2 if table is row else col(MemoryCandidateRow.sequence) == 1
        with transaction(words.engine) as session:
            session.exec(update(table).where(where).values(**change))
        fresh = Shelf(words.engine, words.clock)
        with capture_logs() as logs:
            for user in (inside, outside):
                assert fresh.cited(user) == ["refunds@1"]
                assert fresh.find(user).candidates == ()
                assert fresh.find(user).unsigned == {Unsigned.CANDIDATE}
        assert [
            (one["event"], one["tenant"], one["collection"], one["collection_version"]) for one in logs
        ] == [("memory_candidate_not_signed", "acme", "default", change.get("number", 2))]
        assert fresh.search.find("acme", "another", QUESTION, words.clock.now()).unsigned == {
            Unsigned.CANDIDATE
        }, "the collection is every domain's"
        for act in (words.promote, lambda: words.attempt(60), lambda: words.attempt(secret=SECRET)):
            with pytest.raises(
                MemoryMoveError, match="does not hold what was signed, so nothing was changed"
            ):
                act()
        assert Shelf(words.engine, words.clock).cited(inside) == ["refunds@1"]
        with transaction(words.engine) as session:
            session.exec(update(table).where(where).values(**undo))
    assert Shelf(words.engine, words.clock).cited(inside) == ["refunds@2"]
    assert Shelf(words.engine, words.clock).find(inside).unsigned == frozenset()
    with transaction(words.engine) as session:  # another key signs nothing here
        policies.register_tenant(session, "globex", actor="test", now=words.clock.now())
    with pytest.raises(MemoryMoveError):
        words.promote(MemoryKeys(bytes(32)))
    with transaction(words.engine) as session:  # what the live collection does not hold is not promoted over
        session.exec(update(row).where(col(row.version) == 1).values(approved_by="mallory"))
    with pytest.raises(MemoryMoveError, match="does not hold what its signed version names"):
        words.promote()
    assert [row.state for row in words.rows()] == ["live", "candidate"]
    assert words.abandon().number == 2  # needs no signature


@ON_ONE
def test_candidates_use_up_none_of_the_versions_that_are_kept(words, monkeypatch):
    monkeypatch.setattr(versions, "KEPT", 2)
    for number in range(3):
        words.add(refunds=REFUNDS.replace("14", str(number)))
        for _ in range(3):
            words.attempt(50, more="A refund of more takes 5 days.")
            words.abandon()
    with reading(words.engine) as session:
        rows = histories.versions_of(session, "acme", "default")
        assert [row.number for row in rows] == [1, 5, 9]
        assert histories.difference(session, "acme", "default", 1, 9).replaced == (
            ("refunds@1", "refunds@3"),
        )
    assert words.back(1).brought_back == ("refunds@1",)
    with pytest.raises(MemoryNotFoundError, match="keeps no version 1;"):
        words.back(1)  # a fourth version: the first is given up
    assert words.rows("live")[0].sealed is not None, "but not the words of it that are live again"


@ON_ONE
def test_a_removal_from_a_candidate_that_is_not_what_was_signed_leaves_none_of_it(words):
    words.add(refunds=REFUNDS)
    words.attempt(50, refunds=LATER, secret=SECRET)
    inside, _ = words.drawn()
    assert "secret@1" in words.cited(inside)
    with transaction(words.engine) as session:
        session.exec(
            update(MemoryDocumentRow)
            .where(col(MemoryDocumentRow.document_id) == "refunds", col(MemoryDocumentRow.version) == 2)
            .values(approved_by="mallory")
        )
    words.remove("secret")
    assert words.cited(inside) == ["refunds@1"]
    assert [name[1:] for name in words.search.index("acme").documents] == [("refunds", 1)]
    assert all(row.sealed is None for row in words.rows("superseded", "removed"))


@ON_ONE
def test_a_document_that_nobody_decided_to_try_is_found_by_nobody_and_signed_by_nothing(words):
    words.add(refunds=REFUNDS, secret=SECRET)
    words.remove("secret", earlier=False)
    words.add(refunds=LATER)
    with transaction(words.engine) as session:
        session.exec(
            update(MemoryDocumentRow)
            .where(col(MemoryDocumentRow.document_id) == "refunds", col(MemoryDocumentRow.version) == 1)
            .values(state="candidate")
        )
    assert Shelf(words.engine, words.clock).cited("ann") == ["refunds@2"]
    done = words.attempt(50, more="A refund of more takes 5 days.")
    assert done.candidate.documents == 1
    assert words.cited(words.drawn()[0]) == ["more@1", "refunds@2"]


@ON_ONE
def test_what_cannot_be_tried_says_why(words):
    with pytest.raises(MemoryNotFoundError, match="there is no collection 'default' to change"):
        words.attempt(10, refunds=REFUNDS)
    words.add(refunds=REFUNDS)
    for percent in (0, 100, -1, float("nan")):
        with pytest.raises(MemoryMoveError, match="allowed are more than 0 and less than 100 %"):
            words.attempt(percent, refunds=LATER)
    with pytest.raises(MemoryMoveError, match="no share of the users is named"):
        words.attempt(refunds=LATER)
    with pytest.raises(MemoryMoveError, match="live or tried already"):
        words.attempt(10, refunds=REFUNDS)
    with pytest.raises(MemoryMoveError, match="no document is given"):
        words.attempt(10)
    two = [Draft(document_id="a", title="", text=text) for text in ("One.", "Two.")]
    with pytest.raises(MemoryDocumentError, match="twice"), transaction(words.engine) as session:
        trying.attempt(session, KEYS, words.place(), prepared(two, None), 10)
    assert [row.state for row in words.rows()] == ["live"]


def test_decisions_are_events_and_audited_and_forgotten_with_their_tenant(shelf):
    events = OutboxAdapterEvents()
    with transaction(shelf.engine) as session:
        remembering.add(session, events, KEYS, shelf.place(), shelf.cut({"my-name": REFUNDS}))
        remembering.attempt(session, events, KEYS, shelf.place(), shelf.cut({"my-name": LATER}), 10)
        remembering.abandon(session, events, shelf.place(reason="it was wrong"))
        remembering.attempt(session, events, KEYS, shelf.place(), shelf.cut({"my-name": LATER}), 20)
        remembering.promote(session, events, KEYS, shelf.place())
    with reading(shelf.engine) as session:
        told = [json.loads(row.value) for row in session.exec(select(OutboxRow)).all()]
        acts = [one for one in audit_trail.read(session, "acme") if one.action.startswith("memory.")]
        held = histories.held_between(session, "acme", "default", shelf.clock.now(), None)
    assert [
        (one["epoch"], one["memory"]["decision"], one["memory"]["number"], one["memory"]["candidate_percent"])
        for one in told
    ] == [
        (1, "added", 1, None),
        (2, "tried", 2, 10.0),
        (3, "abandoned", 2, 0.0),
        (4, "tried", 3, 20.0),
        (5, "promoted", 4, None),
    ]
    assert "my-name" not in str(told)
    assert [one.action for one in acts] == [
        "memory.documents_added",
        "memory.tried",
        "memory.abandoned",
        "memory.tried",
        "memory.promoted",
    ]
    assert "days" not in str([one.detail for one in acts])
    assert [(one["decision"], one["version"], one["percent"]) for one in held][-1] == ("promoted", 4, None)
    with transaction(shelf.engine) as session:
        documents.forget_tenant(session, "acme", actor="ann", now=shelf.clock.now())
        assert session.exec(select(MemoryCandidateRow)).all() == []
