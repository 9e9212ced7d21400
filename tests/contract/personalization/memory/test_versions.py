"""Collections have signed versions, on every store: what stood in each, going back, and what can never come back."""

from __future__ import annotations

import json

import pytest
from sqlmodel import col, delete, select, update
from structlog.testing import capture_logs

from personalization.errors import MemoryMoveError, MemoryNotFoundError
from personalization.memory import documents, histories, pgvector, queries, restoring, versions
from personalization.memory.documents import Place, prepared
from personalization.memory.sealing import MemoryKeys
from personalization.memory.search import MemorySearch, SearchRules
from personalization.memory.tables import (
    MemoryCollectionRow,
    MemoryDocumentRow,
    MemoryEntryRow,
    MemoryVersionRow,
)
from personalization.memory.values import Draft, Outcome, Unsigned
from personalization.registry import remembering
from privacy.audit import trail as audit_trail
from privacy.policy import versions as policies
from privacy.storage.session import reading, transaction
from streams.outbox.events import OutboxAdapterEvents
from streams.outbox.tables import OutboxRow

KEYS = MemoryKeys(bytes(range(32)))
REFUNDS = "A refund takes 14 days after the parcel is back."
QUESTION = "how many days does a refund take"


class Shelf:
    """One tenant's memory, found by words."""

    def __init__(self, engine, clock):
        self.engine, self.clock = engine, clock
        self.search = MemorySearch(engine, KEYS, None, rules=SearchRules(passages=2))

    def place(self, **more):
        return Place(tenant_id="acme", collection="default", actor="ann", now=self.clock.now(), **more)

    def add(self, document_id, text, **more):
        draft = Draft(document_id=document_id, title="", text=text)
        with transaction(self.engine) as session:
            (one,) = documents.add(session, KEYS, self.place(**more), prepared([draft], None))
        return one

    def remove(self, *names, **more):
        with transaction(self.engine) as session:
            documents.remove(session, KEYS, self.place(), names, **more)

    def back(self, to=None):
        with transaction(self.engine) as session:
            return restoring.roll_back(session, KEYS, self.place(reason="a test asks"), to)

    def cited(self):
        return [
            one.citation.split("#")[0]
            for one in self.search.find("acme", "default", QUESTION, self.clock.now()).passages
        ]

    def told(self):
        with reading(self.engine) as session:
            return [
                histories.facts_of(session, KEYS, row, kept=True)
                for row in histories.versions_of(session, "acme", "default")
            ]


@pytest.fixture
def shelf(engine, clock):
    with transaction(engine) as session:
        policies.register_tenant(session, "acme", actor="test", now=clock.now())
    return Shelf(engine, clock)


def test_a_collection_goes_back_and_forward_and_says_what_cannot_come_back(shelf):
    shelf.add("refunds", REFUNDS)  # 1
    shelf.add("secret", "The parcel of the secret refund takes 3 days.")  # 2
    shelf.add("refunds", REFUNDS.replace("14", "21"))  # 3
    assert shelf.search.find("acme", "default", QUESTION, shelf.clock.now()).versions == ("default@3",)
    assert "default/refunds@2" in shelf.cited()
    done = shelf.back()
    assert (done.version, done.restores, done.brought_back, done.set_aside) == (
        4,
        2,
        ("refunds@1",),
        ("refunds@2",),
    )
    assert "default/refunds@1" in shelf.cited()
    assert "default/refunds@2" not in shelf.cited()
    assert shelf.back().restores == 1  # one further back, not forward
    assert shelf.cited() == ["default/refunds@1"]
    shelf.back(3)
    shelf.remove("secret")  # 7: for good
    done = shelf.back(2)
    assert (done.version, done.brought_back, done.removed, done.not_kept) == (
        8,
        ("refunds@1",),
        ("secret@1",),
        (),
    )
    assert shelf.cited() == ["default/refunds@1"]
    told = shelf.told()
    assert [(one["version"], one["decision"], one["restores"], one["documents"]) for one in told] == [
        (1, "added", None, 1),
        (2, "added", None, 2),
        (3, "added", None, 2),
        (4, "rolled_back", 2, 2),
        (5, "rolled_back", 1, 1),
        (6, "rolled_back", 3, 2),
        (7, "removed", None, 1),
        (8, "rolled_back", 2, 1),
    ]
    assert all(one["signature_holds"] for one in told)
    (refunds, secret) = told[1]["sources"]
    assert len(refunds["sha256"]) == 64
    assert refunds["approved_by"] == "ann"
    assert (secret["sha256"], secret["kept"]) == (None, False)
    with reading(shelf.engine) as session:
        record = audit_trail.read(session, "acme")[-1]
        found = histories.difference(session, "acme", "default", 1, 3)
    assert (record.action, record.detail["removed"]) == ("memory.rolled_back", ["secret@1"])
    assert (found.added, found.replaced, found.removed) == (("secret@1",), (("refunds@1", "refunds@2"),), ())
    with pytest.raises(MemoryMoveError, match=r"secret@1, which cannot come back; nothing was changed"):
        shelf.back(2)
    with pytest.raises(MemoryNotFoundError, match="keeps no version 99"):
        shelf.back(99)


def test_nothing_of_a_removed_document_is_left_in_any_version(shelf):
    shelf.add("refunds", REFUNDS)
    shelf.add("refunds", REFUNDS.replace("14", "21"))
    shelf.remove("refunds", earlier=True)
    with reading(shelf.engine) as session:
        rows = queries.listed(session, "acme", ended=True)
        assert [row.sealed is None for row in rows] == [True, False]
    assert shelf.cited() == ["default/refunds@2"]
    shelf.add("refunds", REFUNDS + " Or so.")
    shelf.remove("refunds")
    with pytest.raises(MemoryMoveError, match="refunds@2, which cannot come back"):
        shelf.back(2)
    with reading(shelf.engine) as session:
        rows = queries.listed(session, "acme", ended=True)
    assert all((row.sealed, row.vectors, row.salt, row.digest) == (None, None, None, "") for row in rows)


def test_a_database_alone_brings_no_document_back_but_a_whole_version_and_changes_no_date(shelf):
    shelf.add("refunds", REFUNDS)
    shelf.add("refunds", REFUNDS.replace("14", "21"))
    row = MemoryDocumentRow
    fresh = Shelf(shelf.engine, shelf.clock)
    assert fresh.cited() == ["default/refunds@2"]
    with transaction(shelf.engine) as session:
        session.exec(update(row).where(col(row.version) == 2).values(approved_by="mallory"))
    fresh = Shelf(shelf.engine, shelf.clock)
    with capture_logs() as logs:
        found = fresh.search.find("acme", "default", QUESTION, shelf.clock.now())
    assert (found.outcome, found.unsigned) == (Outcome.NO_MEMORY, {Unsigned.COLLECTION})
    assert [(one["event"], one["tenant"], one["collection"], one["collection_version"]) for one in logs] == [
        ("memory_collection_not_signed", "acme", "default", 2)
    ]
    with transaction(shelf.engine) as session:
        session.exec(update(row).where(col(row.version) == 2).values(approved_by="ann"))
    fresh = Shelf(shelf.engine, shelf.clock)
    assert fresh.cited() == ["default/refunds@2"]
    assert fresh.search.find("acme", "default", QUESTION, shelf.clock.now()).unsigned == frozenset()
    with transaction(shelf.engine) as session:
        for number, state in ((2, "superseded"), (1, "live")):
            session.exec(update(row).where(col(row.version) == number).values(state=state))
    assert Shelf(shelf.engine, shelf.clock).cited() == []
    # What signatures cannot tell, as the page of memory says: version 1 once was the newest.
    with transaction(shelf.engine) as session:
        session.exec(update(MemoryCollectionRow).values(version=1))
    assert Shelf(shelf.engine, shelf.clock).cited() == ["default/refunds@1"]


def test_what_a_database_alone_changed_is_not_signed_by_the_next_change(shelf):
    shelf.add("refunds", REFUNDS)
    shelf.add("refunds", REFUNDS.replace("14", "21"))
    shelf.add("secret", "The parcel of the secret refund takes 3 days.")  # 3
    row = MemoryDocumentRow
    with transaction(shelf.engine) as session:
        for number, state in ((2, "superseded"), (1, "live")):
            session.exec(
                update(row)
                .where(col(row.document_id) == "refunds", col(row.version) == number)
                .values(state=state)
            )
    with pytest.raises(MemoryMoveError, match="does not hold what its signed version names"):
        shelf.add("more", "A refund of more takes 5 days.")
    shelf.remove("secret")  # what is to go goes, and what is left is not signed for it
    assert Shelf(shelf.engine, shelf.clock).cited() == []
    done = shelf.back(3)
    assert (done.brought_back, done.set_aside, done.removed) == (
        ("refunds@2",),
        ("refunds@1",),
        ("secret@1",),
    )
    assert Shelf(shelf.engine, shelf.clock).cited() == ["default/refunds@2"]
    shelf.add("more", "A refund of more takes 5 days.")
    with transaction(shelf.engine) as session:  # a date of what is kept, and then what stood when
        session.exec(update(row).where(col(row.version) == 1).values(valid_until=shelf.clock.now()))
    assert shelf.back(1).not_kept == ("refunds@1",)
    with transaction(shelf.engine) as session:
        session.exec(update(MemoryEntryRow).values(since=1, until=None))
    with pytest.raises(
        MemoryMoveError, match="signature of version 2 of the collection 'default' does not hold"
    ):
        shelf.back(2)


def test_what_was_there_before_versions_counts_and_is_signed_before_it_changes(shelf):
    shelf.add("refunds", REFUNDS)
    with transaction(shelf.engine) as session:  # as a version from before left it
        versions.forget(session, "acme")
        session.exec(update(MemoryDocumentRow).values(salt=None))
    assert Shelf(shelf.engine, shelf.clock).cited() == ["default/refunds@1"]
    shelf.add("refunds", REFUNDS.replace("14", "21"))
    assert [(one["version"], one["decision"]) for one in shelf.told()] == [(1, "found"), (2, "added")]
    assert shelf.cited() == ["default/refunds@2"]
    assert shelf.back().brought_back == ("refunds@1",)
    assert shelf.cited() == ["default/refunds@1"]


def test_what_an_older_process_forgot_is_gone_on_from_and_no_number_names_two_things(shelf):
    """A process from before there were versions forgets documents and collections, and leaves their versions."""
    shelf.add("refunds", REFUNDS)  # 1
    shelf.add("refunds", REFUNDS.replace("14", "21"))  # 2
    with transaction(shelf.engine) as session:
        for table in (MemoryDocumentRow, MemoryCollectionRow):
            session.exec(delete(table).where(col(table.tenant_id) == "acme"))
    assert shelf.cited() == []
    shelf.add("refunds", REFUNDS.replace("14", "7"))
    assert shelf.cited() == ["default/refunds@3"]
    told = shelf.told()
    assert [(one["version"], one["documents"], one["signature_holds"]) for one in told] == [
        (1, 1, True),
        (2, 1, True),
        (3, 1, True),
    ]
    assert shelf.back(1).not_kept == ("refunds@1",)
    assert shelf.cited() == []
    shelf.add("refunds", REFUNDS)
    assert shelf.cited() == ["default/refunds@4"]


def test_old_versions_are_given_up_with_their_texts(shelf, monkeypatch):
    monkeypatch.setattr(versions, "KEPT", 1)
    for number in range(3):
        shelf.add("refunds", REFUNDS.replace("14", str(number)))
    with pytest.raises(MemoryNotFoundError, match="keeps no version 1"):
        shelf.back(1)
    with reading(shelf.engine) as session:
        kept = [row.sealed is not None for row in queries.listed(session, "acme", ended=True)]
        assert len(session.exec(select(MemoryEntryRow)).all()) == 2
        assert len(session.exec(select(MemoryVersionRow)).all()) == 3
    assert kept == [False, True, True]
    monkeypatch.setattr(versions, "MOST_KEPT_PASSAGES", 0)
    shelf.add("dog", "The dog is called Bello.")
    assert shelf.back().set_aside == ("dog@1",)
    with reading(shelf.engine) as session:
        rows = {
            f"{row.document_id}@{row.version}": row for row in queries.listed(session, "acme", ended=True)
        }
    assert rows["dog@1"].sealed is None
    assert rows["refunds@3"].sealed is not None


def test_an_addition_says_whether_it_gave_up_texts(shelf, monkeypatch):
    monkeypatch.setattr(versions, "KEPT", 1)
    assert [shelf.add("refunds", REFUNDS.replace("14", str(number))).gave_up for number in range(4)] == [
        False,
        False,
        True,
        True,
    ]
    assert not shelf.add("refunds", REFUNDS.replace("14", "3")).gave_up, "nothing changed"
    assert shelf.add("dog", "The dog is called Bello.").gave_up
    assert not shelf.add("cat", "The cat is called Mia.").gave_up, "what was given up before is given up once"
    monkeypatch.setattr(versions, "MOST_KEPT_PASSAGES", 0)
    assert shelf.add("dog", "The dog is called Rex.").gave_up
    assert not shelf.add("cow", "The cow is called Emma.").gave_up


def test_an_addition_gives_up_the_unsealed_vectors_of_what_it_supersedes(shelf, monkeypatch):
    """Where pgvector keeps vectors they are deleted at once, and lie in the files until those are vacuumed."""
    dropped = []
    monkeypatch.setattr(pgvector, "kept_here", lambda _: True)
    monkeypatch.setattr(pgvector, "put", lambda *_: None)
    monkeypatch.setattr(pgvector, "drop", lambda _, row: dropped.append(row.document_id))
    assert not shelf.add("refunds", REFUNDS).gave_up
    assert not shelf.add("refunds", REFUNDS).gave_up, "nothing changed"
    assert not shelf.add("dog", "The dog is called Bello.").gave_up
    assert dropped == []
    assert shelf.add("refunds", REFUNDS.replace("14", "21")).gave_up
    assert dropped == ["refunds"]


def test_each_version_is_an_event_of_the_line_without_a_name_of_a_document(shelf):
    events = OutboxAdapterEvents()
    draft = Draft(document_id="my-secret-name", title="", text=REFUNDS)
    with transaction(shelf.engine) as session:
        place = shelf.place(domain="support")
        remembering.add(session, events, KEYS, place, prepared([draft], None))
        remembering.add(session, events, KEYS, place, prepared([draft], None))  # changes nothing
        remembering.remove(session, events, KEYS, shelf.place(reason="it was wrong"), ["my-secret-name"])
    with reading(shelf.engine) as session:
        told = [json.loads(row.value) for row in session.exec(select(OutboxRow)).all()]
    assert [(one["kind"], one["epoch"], one["reason"], one["actor"]) for one in told] == [
        ("memory_changed", 1, "added", "ann"),
        ("memory_changed", 2, "it was wrong", "ann"),
    ]
    assert [(one["memory"]["number"], one["memory"]["documents"]) for one in told] == [(1, 1), (2, 0)]
    assert "my-secret-name" not in str(told)
