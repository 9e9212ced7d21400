"""What people decide about a card is kept, audited, and handed to the next vote; the last act on an entry counts."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from personalization.errors import StyleCardError, StyleEntryNotFoundError
from personalization.styles.decisions import (
    LONGEST_REASON,
    StyleAct,
    current_edits,
    find_entry,
    history,
    pin,
    strike,
    undo,
)
from personalization.styles.edits import MOST_EDITS, StyleEdits
from personalization.styles.families import Feature
from personalization.styles.tables import StyleEditRow
from privacy.audit import trail
from privacy.audit.records import verify
from privacy.errors import StorageError
from privacy.policy import versions as policies
from privacy.storage.session import transaction
from tests.fakes.styles import entry, found, users_with_style

CARD = found(users_with_style(300))
NOTE = next(one for one in CARD.of(Feature.OPENING_WORDS) if one.words == "NOTE")
TASK = next(one for one in CARD.of(Feature.OPENING_WORDS) if one.words == "TASK")


@pytest.fixture
def kept(engine, clock):
    with transaction(engine) as session:
        for tenant in ("acme", "bolt"):
            policies.register_tenant(session, tenant, actor="test", now=clock.now())
    return engine


def act(clock, tenant="acme", domain="default", reason="a customer's name"):
    return StyleAct(tenant_id=tenant, domain=domain, actor="officer", reason=reason, now=clock.now())


def test_acts_follow_one_another_and_the_last_one_on_an_entry_counts(kept, clock):
    with transaction(kept) as session:
        assert current_edits(session, "acme", "default") == StyleEdits()
        strike(session, act(clock), NOTE)
        pin(session, act(clock), TASK)
    fixed = replace(TASK, sureness=0.0, pinned=True)
    with transaction(kept) as session:
        assert current_edits(session, "acme", "default") == StyleEdits(
            removed=(NOTE.handle,), pinned=(fixed,)
        )
        strike(session, act(clock), TASK)
        undo(session, act(clock), NOTE.handle)
    with transaction(kept) as session:
        assert current_edits(session, "acme", "default") == StyleEdits(removed=(TASK.handle,))
        told = [(row.sequence, row.decision, row.handle) for row in history(session, "acme", "default")]
    assert told == [
        (1, "remove", NOTE.handle),
        (2, "pin", TASK.handle),
        (3, "remove", TASK.handle),
        (4, "undo", NOTE.handle),
    ]


def test_the_next_vote_of_the_same_users_leaves_a_struck_entry_out(kept, clock):
    with transaction(kept) as session:
        strike(session, act(clock), NOTE)
        edits = current_edits(session, "acme", "default")
    card = found(users_with_style(300), edits=edits)
    assert "NOTE" not in json.dumps(card.to_document())
    assert card.removed == (NOTE.handle,)


def test_lines_are_apart(kept, clock):
    with transaction(kept) as session:
        strike(session, act(clock), NOTE)
        strike(session, act(clock, domain="legal"), TASK)
        assert current_edits(session, "bolt", "default") == StyleEdits()
        assert current_edits(session, "acme", "legal") == StyleEdits(removed=(TASK.handle,))
        with pytest.raises(StyleEntryNotFoundError, match="nothing is decided"):
            undo(session, act(clock, tenant="bolt"), NOTE.handle)


def test_the_trail_names_who_and_why_and_no_words_of_users(kept, clock):
    with transaction(kept) as session:
        strike(session, act(clock), NOTE)
        pin(session, act(clock), TASK)
        undo(session, act(clock), TASK.handle)
    with transaction(kept) as session:
        records = trail.read(session, "acme")
        rows = [row.model_dump() for row in history(session, "acme", "default")]
    verify(records)
    acts = [one for one in records if one.action.startswith("style.")]
    assert [one.action for one in acts] == [
        "style.entry_struck",
        "style.entry_pinned",
        "style.decision_undone",
    ]
    assert all(one.actor == "officer" and one.detail["reason"] == "a customer's name" for one in acts)
    assert acts[0].detail["entry"] == NOTE.handle
    told = json.dumps([one.to_document() for one in acts])
    assert "NOTE" not in told
    assert "TASK" not in told
    assert rows[0]["entry"] is None  # of what was struck no word is kept
    assert rows[1]["entry"]["words"] == "TASK"


@pytest.mark.parametrize("reason", ["", "  ", "x" * (LONGEST_REASON + 1)])
def test_a_decision_needs_a_reason(clock, reason):
    with pytest.raises(StyleCardError, match="reason"):
        act(clock, reason=reason)


def test_an_entry_is_found_by_handle_or_name():
    assert find_entry(CARD, NOTE.handle) == find_entry(CARD, NOTE.name) == NOTE
    with pytest.raises(StyleEntryNotFoundError, match="no entry 'NOTE'"):
        find_entry(CARD, "NOTE")


def test_there_is_an_end_to_what_can_be_decided(kept, clock):
    with transaction(kept) as session:
        for number in range(MOST_EDITS):
            session.add(row_of(number + 1, f"{number:012x}", clock))
        session.flush()
        with pytest.raises(StyleCardError, match="at most"):
            strike(session, act(clock), entry(Feature.OPENING, "[{n}] ", 0.5))
        undo(session, act(clock), f"{1:012x}")
        strike(session, act(clock), entry(Feature.OPENING, "[{n}] ", 0.5))


def test_no_other_decision_can_be_kept(kept, clock):
    with pytest.raises(StorageError, match=r"IntegrityError|CheckViolation"), transaction(kept) as session:
        session.add(row_of(1, "0" * 12, clock, decision="hide"))
        session.flush()


def row_of(sequence, handle, clock, decision="remove"):
    return StyleEditRow(
        tenant_id="acme", domain="default", sequence=sequence, handle=handle, decision=decision, feature="opening",
        actor="officer", reason="r", at=clock.now(),
    )  # fmt: skip
