"""A look is bought before it is read and drawn once; one user moves one look by the unit; erased means gone.

Each claim is also tried with a bug planted in the code that it rests on, and is seen to fail then.
"""

from __future__ import annotations

import math
from contextlib import suppress
from types import SimpleNamespace

import pytest
from sqlalchemy import delete
from sqlalchemy.exc import OperationalError
from sqlmodel import col

from personalization.registry import comparisons as module
from personalization.registry import succession
from personalization.registry.comparisons import Comparisons
from personalization.registry.facts import comparison_facts
from personalization.rollouts import reactions
from personalization.rollouts.evidence import Verdict
from personalization.rollouts.tables import ComparisonRow, LookRow, ReactionRow
from privacy.errors import AnchorUnavailableError, StorageError
from privacy.ledger import ReservationState
from privacy.ledger.export import export_ledger
from privacy.ledger.verify import verify_export
from privacy.mechanisms.noisy_comparison import UNIT, Arms, Sums
from streams.contracts.consent import ConsentPurpose
from streams.contracts.interaction import Rating
from tests.fakes.compared import LOOK_SECONDS, ComparedShop
from tests.integration.personalization.registry.test_rollouts import ONE_DATABASE
from tests.integration.personalization.releases.test_crashes import KilledError, dying

# Noise may end a comparison early, and then there is no later look to say anything of.
pytestmark = [ONE_DATABASE, pytest.mark.usefixtures("fixed_draws")]
USERS = tuple(f"u{number}" for number in range(12))


class Spy:
    """Sees every private read and every draw of looks, and what the ledger said of the look just then."""

    def __init__(self, monkeypatch, shop):
        self.read, self.drawn, self.unpaid = [], [], []
        read, draw = reactions.parts, module.release

        def parts(session, comparison, plan, look):
            bought = shop.ledger.looks(session, comparison.reservation_id)
            state = shop.ledger.attested(session, comparison.reservation_id).state
            if look not in bought or state is not ReservationState.RUNNING:
                self.unpaid.append(look)
            self.read.append((look, list(read(session, comparison, plan, look))))
            return iter(self.read[-1][1])

        def release(mechanism, given, stream, look):
            self.drawn.append(look)
            return draw(mechanism, given, stream, look)

        monkeypatch.setattr(reactions, "parts", parts)
        monkeypatch.setattr(module, "release", release)


@pytest.fixture
def shop(engine, clock, tmp_path):
    return ComparedShop(engine, clock, tmp_path)


def compared(shop):
    """A comparison in which some users reacted, and whose first look is due."""
    _, candidate = shop.to_comparison()
    shop.agree(*USERS)
    shop.clock.advance(seconds=1)
    shop.react([(user, True) for user in USERS])
    shop.clock.advance(seconds=LOOK_SECONDS)
    return candidate


def test_a_look_is_reserved_bought_and_anchored_before_it_is_read(shop, monkeypatch):
    spy, order = Spy(monkeypatch, shop), []

    class Anchor:
        def check(self, _tenant_id):
            order.append("check")

        def secure(self, _tenant_id):
            assert spy.read == []
            order.append("secure")

    shop.comparisons = shop.process_of_comparisons(anchor=Anchor())
    compared(shop)
    assert order == ["check"]
    shop.compare()
    assert order == ["check", "secure", "secure"]
    assert [look for look, _ in spy.read] == spy.drawn == [0]
    assert spy.unpaid == []


def test_an_anchor_that_does_not_confirm_lets_nothing_be_read(shop, monkeypatch):
    spy = Spy(monkeypatch, shop)

    class Away:
        def __init__(self, after):
            self.after = after

        def check(self, _tenant_id):
            """Nothing to compare."""

        def secure(self, _tenant_id):
            self.after -= 1
            if self.after < 0:
                raise AnchorUnavailableError("it does not answer")

    compared(shop)
    for after in (0, 1):
        shop.comparisons = shop.process_of_comparisons(anchor=Away(after))
        with pytest.raises(AnchorUnavailableError):
            shop.compare()
    assert spy.read == []


def test_a_look_that_nobody_bought_is_not_read(shop, monkeypatch):
    spy = Spy(monkeypatch, shop)
    compared(shop)
    monkeypatch.setattr(
        Comparisons, "_buy", lambda *_arguments: True
    )  # the planted bug: it reads before it pays
    shop.compare()
    assert spy.read == spy.drawn == []


def test_what_pays_for_one_look_does_not_pay_for_another(shop, monkeypatch):
    spy = Spy(monkeypatch, shop)
    compared(shop)
    shop.compare()
    take = Comparisons._take
    monkeypatch.setattr(Comparisons, "_buy", lambda *arguments: True)
    monkeypatch.setattr(
        Comparisons, "_take", lambda self, line, tenant, _look, now: take(self, line, tenant, 1, now)
    )
    shop.clock.advance(seconds=LOOK_SECONDS)
    shop.compare()
    assert spy.drawn == [0]


def test_death_at_every_commit_draws_no_look_twice(engine, clock, tmp_path, monkeypatch):
    shop = ComparedShop(engine, clock, tmp_path, **{"rollout.looks": 11})
    spy, candidate = Spy(monkeypatch, shop), compared(shop)
    for look in range(10):  # each dies at another commit, before it or right after it
        error = KilledError() if look % 2 else OperationalError("commit", {}, Exception("gone"))
        with (
            dying(engine, 1 + look // 2, durable=look % 2 == 0, error=error),
            suppress(KilledError, StorageError, OperationalError),
        ):
            shop.compare()
        clock.advance(seconds=600)  # longer than a bought look is left alone
        shop.comparisons = shop.process_of_comparisons()
        shop.compare()
        clock.advance(seconds=LOOK_SECONDS - 600)
        assert sorted(spy.drawn) == sorted(set(spy.drawn)), "no look is drawn twice"
        assert sorted(look for look, _ in spy.read) == sorted(spy.drawn)
    assert spy.unpaid == []
    lost = [row.look for row in shop.looks() if row.effect is None]
    assert lost, "a look that was bought and not stored is lost"
    stored = [row.look for row in shop.looks() if row.effect is not None]
    assert set(stored) <= set(spy.drawn)
    clock.advance(seconds=11 * LOOK_SECONDS)
    shop.compare()
    assert shop.reservation(candidate).state is ReservationState.COMMITTED
    assert verify_export(export_ledger(engine)).ok


def test_a_look_that_another_took_for_lost_is_not_drawn(shop, monkeypatch):
    spy, candidate = Spy(monkeypatch, shop), compared(shop)
    with shop.session() as session:
        line_ref = session.get(ComparisonRow, candidate).line_ref
    now = shop.clock.now()
    assert shop.comparisons._buy(line_ref, "acme", 0, now)
    assert shop.comparisons.run(now=now) == 0, "it is left to whoever bought it"
    shop.clock.advance(seconds=600)
    shop.process_of_comparisons().run(now=shop.clock.now())
    shop.comparisons._take(line_ref, "acme", 0, shop.clock.now())  # the first wakes up
    assert spy.drawn == []
    assert [(row.look, row.effect) for row in shop.looks()] == [(0, None)]


def history(engine, clock, folder, monkeypatch, tenant, *, eve):
    """What each look adds up when everybody reacts as always, with one user more or without."""
    monkeypatch.setattr(succession, "secrets", SimpleNamespace(token_hex=lambda _bytes: "5" * 32))
    shop = ComparedShop(engine, clock, folder / tenant, tenant)
    spy = Spy(monkeypatch, shop)
    shop.to_comparison()
    shop.agree(*USERS)
    if eve:
        shop.agree("eve")
    for look in range(3):
        shop.clock.advance(seconds=1)
        shop.react([(user, number % 3 > 0) for number, user in enumerate(USERS[4 * look : 4 * look + 4])])
        if eve:
            shop.react([("eve", Rating(rating=5 - look))] * 9)
            for served in shop.names():
                shop.react([("eve", True)], served=served)
            if look == 1:
                shop.agree("eve", granted=False)
                shop.clock.advance(seconds=1)
                shop.agree("eve")
        shop.clock.advance(seconds=LOOK_SECONDS - 1)
        shop.compare()
    assert [look for look, _ in spy.read] == [0, 1, 2]
    shop.run_tick()
    monkeypatch.undo()
    return [sorted(parts) for _, parts in spy.read]


def forgets(monkeypatch):
    """The planted bug: who was counted, or withdrew, is forgotten and may come again."""

    def empty_look(session, comparison, look):
        session.connection().execute(delete(ReactionRow).where(col(ReactionRow.look) == look))

    monkeypatch.setattr(reactions, "empty_look", empty_look)


def moves(monkeypatch):
    """The planted bug: a user's newest reaction says to which look the user belongs."""
    keep = reactions.keep

    def moving(session, comparison, look, most, told):
        for one in told:
            session.connection().execute(
                delete(ReactionRow).where(
                    col(ReactionRow.pseudonym) == one.pseudonym, col(ReactionRow.look) != look
                )
            )
        keep(session, comparison, look, most, told)

    monkeypatch.setattr(reactions, "keep", moving)


def takes_what_is_told(monkeypatch):
    """The planted bug: a value is not clipped, and the vector is as long as the user likes."""
    monkeypatch.setattr(reactions, "QUARTERS", 1)
    monkeypatch.setattr(Arms, "part", lambda _self, value, *, candidate: Sums(int(value * UNIT), 0, UNIT, 0))


@pytest.mark.parametrize("planted", [None, forgets, moves, takes_what_is_told])
def test_one_user_is_in_one_look_with_a_vector_no_longer_than_the_unit(
    engine, clock, tmp_path, monkeypatch, planted
):
    looks_with_and_without = []
    for tenant in ("with", "without"):
        if planted is not None:
            planted(monkeypatch)
        looks_with_and_without.append(
            history(engine, clock, tmp_path, monkeypatch, tenant, eve=tenant == "with")
        )
    more = []
    for with_eve, without in zip(*looks_with_and_without, strict=True):
        left = list(with_eve)
        for part in without:
            left.remove(part)  # nobody else's part depends on one user
        more += left
    lengths = [math.hypot(*part) for part in more]
    assert (len(lengths), max(lengths) <= UNIT) == {
        None: (1, True), forgets: (2, True), moves: (2, True), takes_what_is_told: (1, False)
    }[planted]  # fmt: skip


def test_what_was_released_and_changed_afterwards_decides_nothing(shop):
    candidate = compared(shop)
    shop.compare()
    with shop.session() as session:
        (before,) = comparison_facts(session, candidate)["looks"]
        row = session.get(LookRow, (candidate, 0))
        row.effect += 10**9
        session.add(row)
    with shop.session() as session:
        (after,) = comparison_facts(session, candidate)["looks"]
    assert (before["holds"], after["holds"]) == (True, False)
    assert before["effect"] is not None
    assert after["effect"] is after["users"] is None, "nobody is shown an estimate from it"
    shop.clock.advance(seconds=LOOK_SECONDS)
    shop.compare()
    assert shop.comparison(candidate).verdict == Verdict.UNDECIDED


def test_an_erasure_takes_the_row_and_a_withdrawal_its_numbers(shop):
    compared(shop)
    gone, left = USERS[:2]
    shop.forget(gone)
    shop.agree(left, purposes=[ConsentPurpose.EVALUATION], granted=False)
    rows = shop.rows()
    assert len(rows) == len(USERS) - 1
    assert sum(row.reactions == 0 and row.total == 0 for row in rows) == 1
    shop.agree(left, gone)
    shop.react([(left, True), (gone, True)])
    assert sum(row.reactions for row in shop.rows()) == len(USERS) - 2, "neither is counted again"
