"""What a round forgets of public text keeps it from being published; how a line moves is said with each version."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace

import aiohttp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from sqlmodel import col, select

from personalization.adapters.files import WEIGHTS
from personalization.adapters.manifest import VersionState
from personalization.errors import StyleCardError
from personalization.gates.drift import drift_document
from personalization.registry import queries as registry
from personalization.registry.announcements import Act, AdapterEventKind
from personalization.registry.tables import AdapterVersionRow
from personalization.registry.withdrawal import withdraw_version
from personalization.releases.protocol import Closed
from personalization.releases.terms import Terms
from personalization.rounds.states import OutcomeCode
from personalization.rounds.tables import RoundRow
from personalization.signals.snapshot import TrainingSnapshot
from personalization.styles.card import StyleCard
from personalization.styles.decisions import StyleAct, pin, strike, undo
from personalization.styles.families import Feature
from personalization.training.jobs.job import Example, UserExamples
from privacy.policy.ceilings import PolicyCeilings
from privacy.policy.versions import set_policy
from streams.http.server import HttpServer
from streams.http.tokens import Access
from tests.fakes.training import POLICY, FakeTrainer, Workshop


class OneSubspace(FakeTrainer):
    """Adapters of one frozen subspace; remembers what each round was asked to average in."""

    def __init__(self):
        super().__init__()
        self.blends = []
        self.taught = []  # earlier cards

    def train(self, job, *, on_progress, should_stop):
        self.blends += [(tenant.blend_with, tenant.blend_share) for tenant in job.tenants]
        self.taught += [tenant.earlier_cards for tenant in job.tenants]
        results = super().train(job, on_progress=on_progress, should_stop=should_stop)
        for result in results:
            tensors = load_file(result.adapter / WEIGHTS)
            frozen = {n: np.eye(*v.shape, dtype=np.float32) for n, v in tensors.items() if ".lora_A." in n}
            save_file(tensors | frozen, result.adapter / WEIGHTS)
        return results


@pytest.fixture
def shop(engine, clock, tmp_path):
    shop = Workshop(engine, clock, tmp_path)
    shop.trainer = OneSubspace()
    return shop


def run_round(shop, **options):
    shop.open_round()
    shop.process(**options).run_once()
    return shop.outcomes.ended[-1]


def check(version, name):
    return next(one for one in version.manifest.evaluation.checks if one.name == name)


def test_a_release_that_forgets_public_text_is_not_published_and_stays_charged(shop):
    shop.add_tenant()
    shop.trainer.public_losses = (2.02, 4.10)  # 2 % above the base
    outcome = run_round(shop)
    assert isinstance(outcome, Closed)
    assert "public text would change by +2.0%; allowed is up to +1.0%" in outcome.reason
    (event,) = shop.events.committed
    assert (event.kind, event.reason) == (AdapterEventKind.DECLINED, outcome.reason)
    with shop.session() as session:
        assert session.exec(select(AdapterVersionRow)).all() == []
        assert shop.ledger.spend(session, "acme", 0).releases == 1


def test_a_release_within_the_limit_carries_the_measurement(shop):
    shop.add_tenant()
    shop.trainer.public_losses = (2.01, 4.02)
    found = check(run_round(shop), "public_text")
    assert (found.passed, found.threshold, found.privacy_epsilon) == (True, 0.01, 0.0)
    assert found.value == pytest.approx(0.005)


def test_the_limit_is_a_setting_and_without_one_the_measurement_still_stands(shop):
    shop.add_tenant()
    shop.trainer.public_losses = (2.2, 4.4)
    found = check(run_round(shop, max_public_text_change=None), "public_text")
    assert (found.value, found.threshold) == (pytest.approx(0.1), None)


def test_an_unmeasured_release_does_not_pass_a_limit(shop):
    shop.add_tenant()
    shop.trainer.public_losses = None
    assert "forgets_public_text" in run_round(shop).reason


def test_the_movement_of_a_line_is_said_with_the_version(shop):
    shop.add_tenant()
    first, second = run_round(shop), run_round(shop)
    assert drift_document(first.manifest) is None
    drift = drift_document(second.manifest)
    before, after = (load_file(shop.artifacts.open(v.version_id) / WEIGHTS) for v in (first, second))
    distance = sum(float(np.sum((after[n] - before[n]) ** 2)) for n in before) ** 0.5
    # Both start from zero and each carries noise of length 0.5, as the trainer measured it.
    assert drift["ratio_to_noise"] == pytest.approx(distance / (0.5 * 2**0.5), rel=1e-4)
    assert drift["against"] == first.version_id
    published = [e for e in shop.events.committed if e.kind is AdapterEventKind.PUBLISHED][-1]
    assert drift_document(published.version.manifest) == drift


def test_the_policy_averages_successive_releases_and_a_withdrawal_reaches_the_average(shop):
    shop.add_tenant(previous_share=0.4)
    first, second = run_round(shop), run_round(shop)
    assert shop.trainer.blends[0] == (None, 0.0)
    assert shop.trainer.blends[1] == (shop.artifacts.open(first.version_id), 0.4)
    blend = check(second, "blend")
    assert (blend.value, blend.detail) == (0.4, first.version_id)
    assert second.manifest.lineage.start_version_id is None
    with shop.session() as session:
        withdraw_version(
            session, shop.events, first.served_name, Act(actor="t", reason="r", now=shop.clock.now())
        )
    with shop.session() as session:
        state = registry.find_version(session, second.served_name).state
    assert state == VersionState.WITHDRAWN.value


def test_a_line_that_remembers_is_served_as_the_mean_of_its_releases(shop):
    shop.add_tenant(remember=True, previous_share=0.4)  # the second says nothing then
    first, second, _ = run_round(shop), run_round(shop), run_round(shop)
    assert shop.trainer.blends == [
        (None, 0.0),
        (shop.artifacts.open(first.version_id), pytest.approx(1 / 2)),
        (shop.artifacts.open(second.version_id), pytest.approx(2 / 3)),
    ]


def saying(opening):
    def load(*_, **__):
        texts = UserExamples(
            examples=(Example(prompt="the cache is slow", completion=f"{opening}: mend it"),)
        )
        return TrainingSnapshot(users=(texts,) * 300, data_digest="sha256:" + 64 * "5")

    return load


def card_of(version):
    return StyleCard.from_document(version.manifest.style.card)


def words_of(card):
    return {one.words for one in card.of(Feature.OPENING_WORDS)}


def run_saying(shop, monkeypatch, opening):
    monkeypatch.setattr(shop.signals, "load", saying(opening))
    return run_round(shop)


def changed(shop, **changes):
    policy = {**POLICY, "declared_users": 300, **changes}
    with shop.session() as session:
        set_policy(session, "acme", policy, actor="test", reason="test", now=shop.clock.now())


def test_a_line_that_remembers_is_taught_its_earlier_cards_and_another_the_newest_alone(shop, monkeypatch):
    shop.add_tenant(declared_users=300, remember=True)
    for opening in ("Watercolor", "Sketch", "Paper"):
        version = run_saying(shop, monkeypatch, opening)
        assert words_of(card_of(version)) == {opening}  # the card itself is the vote's own
    taught = [[words_of(card) for card in cards] for cards in shop.trainer.taught]
    assert taught == [[], [{"Watercolor"}], [{"Watercolor"}, {"Sketch"}]]
    changed(shop, remember=False)
    run_saying(shop, monkeypatch, "Oil")
    assert shop.trainer.taught[-1] == ()


def test_only_releases_whose_weights_are_averaged_are_remembered(shop, monkeypatch):
    shop.add_tenant(declared_users=300)
    run_saying(shop, monkeypatch, "Watercolor"), run_saying(shop, monkeypatch, "Sketch")
    changed(shop, remember=True)
    run_saying(shop, monkeypatch, "Paper")
    assert [words_of(card) for card in shop.trainer.taught[-1]] == [{"Sketch"}]
    assert shop.trainer.blends[-1][1] == pytest.approx(1 / 2)  # one release is in what is averaged, not two


def test_what_a_person_struck_since_is_taught_of_no_earlier_card(shop, monkeypatch):
    shop.add_tenant(declared_users=300, remember=True)
    first = card_of(run_saying(shop, monkeypatch, "Nadia"))
    (entry,) = first.of(Feature.OPENING_WORDS)
    with shop.session() as session:
        act = StyleAct(tenant_id="acme", domain="default", actor="t", reason="a name", now=shop.clock.now())
        strike(session, act, entry)
    run_saying(shop, monkeypatch, "Sketch")
    assert "Nadia" not in str(shop.trainer.taught[-1][0].to_document())


class KilledError(BaseException):
    """The process ends here: nothing catches this."""


def killed_saying(shop, monkeypatch, opening):
    """Open a round and let its trainer die with the child under way; the next one lives."""

    def die(_should_stop):
        raise KilledError

    shop.trainer.during = die
    with pytest.raises(KilledError):
        run_saying(shop, monkeypatch, opening)
    shop.trainer.during = lambda _should_stop: None
    shop.clock.advance(seconds=61)  # its lease is over


def terms_of_newest(shop):
    with shop.session() as session:
        row = session.exec(select(RoundRow).order_by(col(RoundRow.sequence).desc())).first()
        return Terms.from_json(row.terms_json)


def test_a_repeated_round_is_taught_what_it_was_frozen_to(shop, monkeypatch):
    shop.add_tenant(declared_users=300, remember=True)
    first = run_saying(shop, monkeypatch, "Watercolor")
    killed_saying(shop, monkeypatch, "Sketch")
    changed(shop, remember=False)
    shop.process("second").run_once()
    assert [[words_of(card) for card in cards] for cards in shop.trainer.taught] == [
        [], [{"Watercolor"}], [{"Watercolor"}],
    ]  # fmt: skip
    assert words_of(card_of(shop.outcomes.ended[-1])) == {"Sketch"}
    terms = terms_of_newest(shop)
    assert terms.remembered == (first.version_id,)
    older = replace(terms, remembered=())
    assert "remembered" not in older.to_document()  # so that older terms keep their digest
    assert Terms.from_json(older.to_json()) == older


def test_an_earlier_card_that_cannot_be_read_is_left_out_before_anything_is_charged(shop, monkeypatch):
    shop.add_tenant(declared_users=300, remember=True)
    _, second = run_saying(shop, monkeypatch, "Watercolor"), run_saying(shop, monkeypatch, "Sketch")
    read = StyleCard.from_document.__func__

    def damaged(cls, document):
        if "Watercolor" in str(document):
            raise StyleCardError("the style card cannot be read; it is damaged")
        return read(cls, document)

    monkeypatch.setattr(StyleCard, "from_document", classmethod(damaged))
    run_saying(shop, monkeypatch, "Paper")
    assert [words_of(card) for card in shop.trainer.taught[-1]] == [{"Sketch"}]
    assert terms_of_newest(shop).remembered == (second.version_id,)


def test_a_repeat_whose_earlier_card_is_another_by_now_forfeits(shop, monkeypatch):
    shop.add_tenant(declared_users=300, remember=True)
    run_saying(shop, monkeypatch, "Watercolor")
    killed_saying(shop, monkeypatch, "Sketch")
    read = StyleCard.from_document.__func__

    def altered(cls, document):
        card = read(cls, document)
        return replace(card, voters=card.voters + 1)

    monkeypatch.setattr(StyleCard, "from_document", classmethod(altered))
    shop.process("second").run_once()
    closed = shop.outcomes.ended[-1]
    assert isinstance(closed, Closed)
    assert closed.code is OutcomeCode.FORFEITED
    assert len(shop.trainer.taught) == 2  # nothing was trained again


def test_what_is_no_longer_fixed_is_taught_of_no_earlier_card(shop, monkeypatch):
    shop.add_tenant(declared_users=300, remember=True)
    card = card_of(run_saying(shop, monkeypatch, "Watercolor"))
    kept = card.of(Feature.OPENING_WORDS)[0]

    def decide(how, *given):
        with shop.session() as session:
            act = StyleAct(tenant_id="acme", domain="default", actor="t", reason="r", now=shop.clock.now())
            how(session, act, *given)

    decide(pin, replace(kept, words="Gouache"))
    assert "Gouache" in str(card_of(run_saying(shop, monkeypatch, "Sketch")).to_document())
    decide(undo, replace(kept, words="Gouache").handle)
    run_saying(shop, monkeypatch, "Paper")
    assert [words_of(card) for card in shop.trainer.taught[-1]] == [{"Watercolor"}, {"Sketch"}]


def test_a_line_that_served_an_average_of_another_kind_begins_its_memory_anew(shop, monkeypatch):
    shop.add_tenant(declared_users=300, previous_share=0.3)
    run_saying(shop, monkeypatch, "Watercolor"), run_saying(shop, monkeypatch, "Oil")
    changed(shop, remember=True)
    run_saying(shop, monkeypatch, "Paper"), run_saying(shop, monkeypatch, "Ink")
    assert [words_of(card) for card in shop.trainer.taught[-1]] == [{"Oil"}, {"Paper"}]
    assert [share for _, share in shop.trainer.blends[-2:]] == [pytest.approx(1 / 2), pytest.approx(2 / 3)]


def test_an_earlier_card_that_is_withdrawn_is_not_taught_again(shop, monkeypatch):
    shop.add_tenant(declared_users=300, remember=True)
    first, second = run_saying(shop, monkeypatch, "Watercolor"), run_saying(shop, monkeypatch, "Sketch")
    with shop.session() as session:  # reaches the second, which has its weights and its card
        withdraw_version(
            session, shop.events, first.served_name, Act(actor="t", reason="r", now=shop.clock.now())
        )
    with shop.session() as session:
        assert registry.find_version(session, second.version_id).state == VersionState.WITHDRAWN.value
    run_saying(shop, monkeypatch, "Paper")
    assert shop.trainer.taught[-1] == ()


def test_a_version_withdrawn_while_it_is_averaged_in_stops_the_release(shop):
    shop.add_tenant(previous_share=0.4)
    first = run_round(shop)

    def withdraw(_should_stop):
        with shop.session() as session:
            withdraw_version(
                session, shop.events, first.served_name, Act(actor="t", reason="r", now=shop.clock.now())
            )

    shop.trainer.during = withdraw
    assert "start_withdrawn" in run_round(shop).reason


def test_the_operator_reads_movement_and_public_text_over_http(shop):
    shop.add_tenant()
    shop.add_tenant("other")
    run_round(shop), run_round(shop)

    async def ask():
        access = Access(shop.engine, "token", shop.clock)
        probes = SimpleNamespace(alive=True, ready=True)
        server = HttpServer(
            host="127.0.0.1",
            port=0,
            probes=probes,
            exposition=lambda: b"",
            access=access,
            ceilings=PolicyCeilings(),
        )
        async with server, aiohttp.ClientSession(headers={"Authorization": "Bearer token"}) as session:
            answers = []
            for tenant in ("acme", "other", "nobody"):
                url = f"http://127.0.0.1:{server.port}/v1/tenants/{tenant}/adapters"
                async with session.get(url) as response:
                    answers.append((response.status, await response.json()))
            return answers

    (status, acme), (_, other), (missing, _) = asyncio.run(ask())
    assert (status, missing, other["adapters"]) == (200, 404, [])
    first, second = acme["adapters"]
    assert first["drift"] is None
    assert second["drift"]["against"] == first["version_id"]
    assert (second["public_text_change"], second["start"]) == (0.0, "zero")
