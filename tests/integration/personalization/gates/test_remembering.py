"""A line that remembers serves the mean of its releases, what was made of their style cards included."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from sqlmodel import col, select

from personalization.adapters.files import CONFIG, WEIGHTS
from personalization.adapters.manifest import VersionState
from personalization.adapters.parts import private_entry, private_names
from personalization.errors import StyleCardError
from personalization.planning.model_shape import read_shape
from personalization.planning.plan import ALL_LINEAR, FEED_FORWARD
from personalization.registry import queries as registry
from personalization.registry.announcements import Act
from personalization.registry.rollback import roll_back
from personalization.registry.withdrawal import withdraw_version
from personalization.releases.style import cards_in
from personalization.releases.terms import Terms
from personalization.rounds.tables import RoundRow
from personalization.signals.snapshot import TrainingSnapshot
from personalization.styles.card import StyleCard, StyleEntry
from personalization.styles.decisions import StyleAct, pin, strike, undo
from personalization.styles.families import Feature
from personalization.styles.frames import is_poor
from personalization.training.base.directory import BaseDirectory
from personalization.training.child.job import blended
from personalization.training.child.parent import ChildProcessTrainer
from personalization.training.jobs.job import Example, PublicPartFacts, UserExamples
from privacy.policy.versions import set_policy
from tests.fakes.tiny_models import write_tiny_base
from tests.fakes.training import POLICY, SHAPE, FakeTrainer, Workshop, write_adapter

MANY = {"declared_users": 300, "planned_releases": 6, "lifetime_epsilon": 12.0, "period_epsilon": 12.0}

UNLIKE = "abcdefghijklmnopqrstuvwxyz"


class TwoParts(FakeTrainer):
    """Adapters of one frozen subspace, with a public part where the card told something; averaged as a child does."""

    def __init__(self):
        super().__init__()
        self.shares = []  # of the private parts
        self.remembered = []
        self.made = []  # public parts as they were learned

    def train(self, job, *, on_progress, should_stop):
        results = super().train(job, on_progress=on_progress, should_stop=should_stop)
        self.shares += [tenant.blend_share for tenant in job.tenants]
        self.remembered += [
            0 if tenant.remembers is None else tenant.remembers.remembered + 1 for tenant in job.tenants
        ]
        return tuple(
            blended(tenant, self.with_public_part(tenant, result))
            for tenant, result in zip(job.tenants, results, strict=True)
        )

    def with_public_part(self, tenant, result):
        own = load_file(result.adapter / WEIGHTS)
        own = {n: np.eye(*v.shape, dtype=np.float32) if ".lora_A." in n else v for n, v in own.items()}
        if tenant.card is None or is_poor(tenant.card):
            save_file(own, result.adapter / WEIGHTS)
            return result
        assert set(tenant.plan.target_modules) == set(
            FEED_FORWARD
        )  # a plan that leaves room for a public part
        whole = result.adapter.with_name("whole")
        everywhere = SimpleNamespace(
            target_modules=ALL_LINEAR, top_layers=SHAPE.layers, rank=tenant.plan.rank, alpha=tenant.plan.alpha
        )
        write_adapter(whole, everywhere, int.from_bytes(tenant.noise_key[4:8], "big"))
        everything = load_file(whole / WEIGHTS)
        self.made.append({name: values for name, values in everything.items() if name not in own})
        names = {name.rsplit(".lora_", 1)[0] for name in own}
        metadata = {"format": "pt", **private_entry(names)}
        save_file(everything | own, result.adapter / WEIGHTS, metadata=metadata)
        (result.adapter / CONFIG).write_bytes((whole / CONFIG).read_bytes())
        facts = PublicPartFacts(pairs=72, rehearsed=40, steps=28, loss_before=5.0, loss_after=3.0)
        return replace(result, public_part=facts)


@pytest.fixture
def shop(engine, clock, tmp_path):
    shop = Workshop(engine, clock, tmp_path)
    shop.trainer = TwoParts()
    return shop


def run_saying(shop, monkeypatch, opening):
    """Run a round whose users all begin so; nobody shares anything where nothing is given."""
    answers = (
        [f"{opening}: mend it"] * 300 if opening else [UNLIKE[n % 26] * (1 + n // 26) for n in range(300)]
    )
    users = tuple(
        UserExamples(examples=(Example(prompt="the cache is slow", completion=one),)) for one in answers
    )
    snapshot = TrainingSnapshot(users=users, data_digest="sha256:" + 64 * "5")
    monkeypatch.setattr(shop.signals, "load", lambda *_, **__: snapshot)
    shop.open_round()
    shop.process().run_once()
    return shop.outcomes.ended[-1]


def remembered_in(version):
    part = version.manifest.style.public_part
    return None if part is None else part.get("remembered", 0)


def updates(directory, tensors=None):
    """Return B A of every layer of the public part."""
    tensors = tensors or load_file(directory / WEIGHTS)
    private = private_names(directory) or frozenset()
    names = {name.rsplit(".lora_", 1)[0] for name in tensors} - private
    return {n: tensors[f"{n}.lora_B.weight"] @ tensors[f"{n}.lora_A.weight"] for n in names}


def changed(shop, **changes):
    policy = {**POLICY, **MANY, **changes}
    with shop.session() as session:
        set_policy(session, "acme", policy, actor="test", reason="test", now=shop.clock.now())


def decide(shop, how, *given):
    with shop.session() as session:
        act = StyleAct(tenant_id="acme", domain="default", actor="t", reason="r", now=shop.clock.now())
        how(session, act, *given)


def opening_of(version):
    (entry,) = StyleCard.from_document(version.manifest.style.card).of(Feature.OPENING_WORDS)
    return entry


def terms_of_newest(shop):
    with shop.session() as session:
        row = session.exec(select(RoundRow).order_by(col(RoundRow.sequence).desc())).first()
        return Terms.from_json(row.terms_json)


def test_what_was_made_of_each_card_has_its_even_share(shop, monkeypatch):
    shop.add_tenant(**MANY, remember=True)
    versions = [run_saying(shop, monkeypatch, opening) for opening in ("Watercolor", "Sketch", "Paper")]
    assert [opening_of(one).words for one in versions] == ["Watercolor", "Sketch", "Paper"]  # the vote's own
    assert shop.trainer.shares == [0.0, pytest.approx(1 / 2), pytest.approx(2 / 3)]
    assert shop.trainer.remembered == [0, 1, 2]
    assert [remembered_in(one) for one in versions] == [0, 1, 2]
    folders = [shop.artifacts.open(one.version_id) for one in versions]
    first, second, third = (updates(folders[0], made) for made in shop.trainer.made)
    plan = terms_of_newest(shop).plan
    second_served = updates(folders[1])
    for count, before, made, served in (
        (2, first, second, second_served),
        (3, second_served, third, updates(folders[2])),
    ):
        for name, update in served.items():
            mean = before[name] * (count - 1) / count + made[name] / count
            left, values, right = np.linalg.svd(mean)
            nearest = (left[:, : plan.rank] * values[: plan.rank]) @ right[: plan.rank]
            np.testing.assert_allclose(update, nearest, atol=1e-6)
            assert np.abs(update - made[name]).max() > 1e-4


def test_without_the_policy_the_newest_is_served_as_it_was_learned(shop, monkeypatch):
    shop.add_tenant(**MANY, previous_share=0.4)
    run_saying(shop, monkeypatch, "Watercolor")
    second = run_saying(shop, monkeypatch, "Sketch")
    assert (shop.trainer.shares[-1], shop.trainer.remembered[-1], remembered_in(second)) == (0.4, 0, 0)
    assert "remembered" not in second.manifest.style.public_part
    folder = shop.artifacts.open(second.version_id)
    for name, update in updates(folder).items():
        np.testing.assert_allclose(update, updates(folder, shop.trainer.made[-1])[name], atol=1e-6)


def test_memory_begins_when_the_policy_asks_and_ends_when_it_no_longer_does(shop, monkeypatch):
    shop.add_tenant(**MANY, previous_share=0.3)
    run_saying(shop, monkeypatch, "Watercolor"), run_saying(shop, monkeypatch, "Oil")
    changed(shop, remember=True)
    found = [run_saying(shop, monkeypatch, opening) for opening in ("Paper", "Ink")]
    assert [remembered_in(one) for one in found] == [1, 2]
    assert shop.trainer.shares[-2:] == [pytest.approx(1 / 2), pytest.approx(2 / 3)]
    changed(shop, remember=False)
    assert remembered_in(run_saying(shop, monkeypatch, "Chalk")) == 0


def test_what_people_struck_since_is_in_no_later_release(shop, monkeypatch):
    shop.add_tenant(**MANY, remember=True)
    run_saying(shop, monkeypatch, "Watercolor")
    second = run_saying(shop, monkeypatch, "Nadia")
    decide(shop, strike, opening_of(second))
    found = [run_saying(shop, monkeypatch, opening) for opening in ("Sketch", "Paper", "Ink")]
    # No entry can be taken out of a mean: what is made of cards begins anew, and what users taught goes on.
    assert [remembered_in(one) for one in found] == [0, 1, 2]
    assert shop.trainer.shares[-3:] == [pytest.approx(n / (n + 1)) for n in (2, 3, 4)]
    decide(shop, strike, opening_of(second))  # a second time changes nothing
    assert remembered_in(run_saying(shop, monkeypatch, "Chalk")) == 3


def test_what_is_no_longer_fixed_is_in_no_later_release(shop, monkeypatch):
    shop.add_tenant(**MANY, remember=True)
    kept = replace(opening_of(run_saying(shop, monkeypatch, "Watercolor")), words="Gouache")
    decide(shop, pin, kept)
    second = run_saying(shop, monkeypatch, "Sketch")
    assert "Gouache" in str(second.manifest.style.card)
    assert remembered_in(second) == 1  # to fix an entry is against none
    decide(shop, undo, kept.handle)
    assert remembered_in(run_saying(shop, monkeypatch, "Paper")) == 0


def test_a_vote_that_found_too_little_keeps_what_the_line_remembers(shop, monkeypatch):
    shop.add_tenant(**MANY, remember=True)
    first = run_saying(shop, monkeypatch, "Watercolor")
    found = [run_saying(shop, monkeypatch, opening) for opening in ("", "Sketch", "Paper")]
    assert [remembered_in(one) for one in found] == [0, 1, 2]
    before, kept = (shop.artifacts.open(one.version_id) for one in (first, found[0]))
    for name, update in updates(kept).items():
        np.testing.assert_array_equal(update, updates(before)[name])
    told = found[0].manifest.style.public_part
    assert (told["pairs"], told["steps"]) == (0, 0)  # nothing was made in that round
    assert told["loss_after"] == first.manifest.style.public_part["loss_after"]
    decide(shop, strike, opening_of(first))  # the fourth release's memory reaches past the empty one
    assert remembered_in(run_saying(shop, monkeypatch, "Ink")) == 0


def test_without_the_policy_a_vote_that_found_too_little_leaves_none(shop, monkeypatch):
    shop.add_tenant(**MANY)
    run_saying(shop, monkeypatch, "Watercolor")
    found = run_saying(shop, monkeypatch, "")
    assert remembered_in(found) is None
    assert private_names(shop.artifacts.open(found.version_id)) is None


def test_a_struck_term_is_in_no_text_and_ends_no_memory(shop, monkeypatch):
    shop.add_tenant(**MANY, remember=True)
    run_saying(shop, monkeypatch, "Watercolor")
    term = StyleEntry(feature=Feature.TERM, key="kafka", words="Kafka", share=0.5, sureness=5.0)
    first = StyleCard.from_document(run_saying(shop, monkeypatch, "Sketch").manifest.style.card)
    read = StyleCard.from_document.__func__
    with_term = classmethod(
        lambda cls, document: replace(card := read(cls, document), entries=(*card.entries, term))
    )
    monkeypatch.setattr(StyleCard, "from_document", with_term)
    assert term not in first.entries
    decide(shop, strike, term)
    assert remembered_in(run_saying(shop, monkeypatch, "Paper")) == 2


def test_after_a_rollback_memory_goes_on_from_what_is_served(shop, monkeypatch):
    shop.add_tenant(**MANY, remember=True)
    for opening in ("Watercolor", "Sketch", "Paper"):
        run_saying(shop, monkeypatch, opening)
    with shop.session() as session:
        act = Act(actor="t", reason="r", now=shop.clock.now())
        roll_back(session, shop.events, "acme", "default", act)
    found = run_saying(shop, monkeypatch, "Ink")
    assert (remembered_in(found), shop.trainer.shares[-1]) == (2, pytest.approx(2 / 3))
    with shop.session() as session:
        words = [one.of(Feature.OPENING_WORDS)[0].words for one in cards_in(session, found.version_id)]
    assert words == ["Ink", "Sketch", "Watercolor"]


def test_of_an_earlier_card_that_cannot_be_read_nobody_knows_what_it_said(shop, monkeypatch):
    shop.add_tenant(**MANY, remember=True)
    run_saying(shop, monkeypatch, "Watercolor"), run_saying(shop, monkeypatch, "Sketch")
    read = StyleCard.from_document.__func__

    def damaged(cls, document):
        if "Watercolor" in str(document):
            raise StyleCardError("the style card cannot be read; it is damaged")
        return read(cls, document)

    monkeypatch.setattr(StyleCard, "from_document", classmethod(damaged))
    assert remembered_in(run_saying(shop, monkeypatch, "Paper")) == 0


def test_what_a_withdrawal_reaches_is_not_remembered(shop, monkeypatch):
    shop.add_tenant(**MANY, remember=True)
    first, second = run_saying(shop, monkeypatch, "Watercolor"), run_saying(shop, monkeypatch, "Sketch")
    with shop.session() as session:  # reaches the second, which has its weights
        act = Act(actor="t", reason="r", now=shop.clock.now())
        withdraw_version(session, shop.events, first.served_name, act)
    with shop.session() as session:
        assert registry.find_version(session, second.version_id).state == VersionState.WITHDRAWN.value
    assert remembered_in(run_saying(shop, monkeypatch, "Paper")) == 0


class KilledError(BaseException):
    """The process ends here: nothing catches this."""


def test_a_repeated_round_remembers_what_it_was_frozen_to(shop, monkeypatch):
    shop.add_tenant(**MANY, remember=True)
    first = run_saying(shop, monkeypatch, "Watercolor")

    def die(_should_stop):
        raise KilledError

    shop.trainer.during = die
    with pytest.raises(KilledError):
        run_saying(shop, monkeypatch, "Sketch")
    shop.trainer.during = lambda _should_stop: None
    shop.clock.advance(seconds=61)  # its lease is over
    decide(shop, strike, opening_of(first))
    changed(shop, remember=False)
    shop.process("second").run_once()
    assert remembered_in(shop.outcomes.ended[-1]) == 1
    terms = terms_of_newest(shop)
    assert terms.remembered == 1
    older = replace(terms, remembered=0)
    assert "remembered" not in older.to_document()  # so that older terms keep their digest
    assert Terms.from_json(older.to_json()) == older


@pytest.mark.slow
def test_a_real_child_averages_both_parts_of_a_real_release(shop, monkeypatch, tmp_path):
    base = BaseDirectory(write_tiny_base(tmp_path / "base"))
    shop.base, shop.trainer = base, ChildProcessTrainer()
    shape = read_shape(base.directory())
    monkeypatch.setattr("tests.fakes.training.SHAPE", shape)
    shop.add_tenant(**MANY, remember=True)
    first, second, kept = (run_saying(shop, monkeypatch, one) for one in ("Watercolor", "Sketch", ""))
    assert [remembered_in(one) for one in (first, second, kept)] == [0, 1, 1]
    before, served, later = (shop.artifacts.open(one.version_id) for one in (first, second, kept))
    assert all(np.abs(update - updates(before)[name]).max() > 0 for name, update in updates(served).items())
    for name, update in updates(later).items():
        np.testing.assert_array_equal(update, updates(served)[name])
    assert [check.name for check in second.manifest.evaluation.checks if not check.passed] == []
