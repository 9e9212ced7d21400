"""A line's flag reaches requests within a second, a candidate keeps its people, a shadow is never shown."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from openfeature.provider.in_memory_provider import InMemoryFlag, InMemoryProvider
from sqlmodel import select

from personalization.registry import steering
from personalization.rollouts.values import Flag
from streams.contracts.adapter import RolloutV1
from streams.flags.provider import FLAG_KEY
from streams.gateway.directory import read_directory
from streams.outbox.tables import OutboxRow
from tests.fakes.engines import engine
from tests.fakes.gateways import GatewayThread, wait_until
from tests.fakes.rollouts import RolloutShop
from tests.integration.streams.gateway.test_routes import call

HI = [{"role": "user", "content": "a question"}]
USERS = [f"user-{number}" for number in range(60)]


@pytest.fixture(scope="module")
def behind():
    with engine("vllm") as process:
        yield process


class Stage:
    """One tenant's line with a version and a candidate."""

    def __init__(self, gateway, behind):
        self.gateway, self.token = gateway, gateway.token("acme")
        self.line = gateway.line("acme")
        self.one, self.two = self.line.version(1), self.line.version(2)
        names = [self.one.served_name, self.two.served_name]
        behind.control(names=names)
        gateway.verified.update(names)
        self.epoch = 0

    def want(self, **rollout):
        """Let the line want its version and its candidate, under a rollout, and return when it was asked for."""
        self.epoch += 1
        self.line.publish(
            self.gateway.broker, self.one, candidate=self.two, epoch=self.epoch,
            rollout=RolloutV1(**{"stage": 1, "salt": "s", "steps": (10, 50), "state": "canary", **rollout}),
        )  # fmt: skip
        return time.monotonic()

    def ask(self, user="ann", **more):
        """Return (reason, adapter, text) of an answer."""
        raw = self.gateway.client(self.token).chat.completions.with_raw_response.create(
            model="discreet", messages=HI, user=user, **more
        )
        return (
            raw.headers["x-discreet-reason"],
            raw.headers["x-discreet-version"],
            raw.parse().choices[0].message.content,
        )

    def candidates(self):
        """Return the users who get the candidate."""
        return {user for user in USERS if self.ask(user)[0] == "candidate"}

    def counted(self, name):
        metrics = call(self.gateway, "/metrics", "operator")[1]
        return sum(float(row.rsplit(" ", 1)[1]) for row in metrics.splitlines() if row.startswith(name))


@pytest.fixture
def stage(behind, tmp_path):
    with GatewayThread(tmp_path, url=behind.url) as gateway:
        yield Stage(gateway, behind)


def test_a_growing_share_keeps_its_people_and_an_off_flag_ends_it_within_a_second(stage):
    seen = []
    for percent in (10, 50, 100):
        stage.want(candidate_percent=percent)
        time.sleep(0.5)
        seen.append(stage.candidates())
    assert all(less < more for less, more in pairwise(seen)), "whoever had it keeps it"
    assert seen[-1] == set(USERS)
    assert len(seen[0]) < len(USERS) / 3
    asked = stage.want(candidate_percent=100, flag="off")
    wait_until(lambda: stage.ask()[0] == "switched_off")
    assert time.monotonic() - asked < 1
    reason, version, text = stage.ask()
    assert (reason, version) == ("switched_off", "base")
    assert text.startswith("base|")


def test_a_flag_in_the_database_does_not_wait_for_the_feed(stage):
    stage.want(candidate_percent=100)
    wait_until(lambda: stage.ask()[0] == "candidate")
    line_ref = stage.line.line_ref
    stage.gateway.flags[line_ref] = Flag.OFF
    wait_until(lambda: stage.ask()[0] == "switched_off")
    stage.gateway.flags[line_ref] = Flag.SHADOW
    wait_until(lambda: stage.ask()[0] == "applied")
    stage.want(candidate_percent=0, flag="off")
    wait_until(lambda: stage.ask()[0] == "switched_off")
    stage.gateway.flags.clear()
    assert stage.ask()[0] == "switched_off", "of both the one that shows less holds"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_kill_switch_overtakes_a_version_that_waits_for_its_slot(engine, clock, tmp_path):
    shop = RolloutShop(engine, clock, tmp_path, **{"rollout.steps": (), "release_padding_seconds": 3600})
    shop.publish()
    clock.advance(seconds=7200)
    shop.publish()
    with shop.session() as session:
        waiting = session.exec(select(OutboxRow).where(OutboxRow.created_at > clock.now())).all()
        assert waiting, "the second version waits"
        steering.set_flag(session, shop.events, "acme", "default", Flag.OFF, shop.act())
    line_ref = shop.line_ref()
    with shop.session() as session:
        assert read_directory(session, "one").flags == {line_ref: Flag.OFF}


def test_a_shadow_is_compared_and_nobody_sees_it(stage):
    stage.want(candidate_percent=0, flag="shadow")
    wait_until(lambda: stage.ask()[0] == "applied")
    for more in ({}, {}):
        assert stage.ask(**more)[1] == stage.one.served_name
    list(
        stage.gateway.client(stage.token).chat.completions.create(model="discreet", messages=HI, stream=True)
    )
    wait_until(lambda: stage.counted('discreet_gateway_shadows_total{result="differs"}') >= 3)
    assert stage.counted('discreet_gateway_answers_total{form="chat",reason="candidate"}') == 0


def test_an_operators_provider_lowers_the_flag_and_its_failure_changes_nothing(behind, tmp_path, monkeypatch):
    states = {"on": "on", "off": "off"}
    mine = InMemoryProvider({FLAG_KEY: InMemoryFlag("on", states)})
    monkeypatch.setattr("streams.processes.gateway.operators_provider", lambda _: mine)
    with GatewayThread(tmp_path, url=behind.url) as gateway:
        stage = Stage(gateway, behind)
        stage.want(candidate_percent=0)
        wait_until(lambda: stage.ask()[0] == "applied")
        mine._flags[FLAG_KEY] = InMemoryFlag("off", states)
        asked = time.monotonic()
        wait_until(lambda: stage.ask()[0] == "switched_off")
        assert time.monotonic() - asked < 1
        del mine._flags[FLAG_KEY]
        wait_until(lambda: stage.ask()[0] == "applied")
        assert stage.counted("discreet_gateway_flag_failures_total") >= 1
