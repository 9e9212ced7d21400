"""Simulated users behind the gateway, on a real broker: what is better is promoted, what is worse or unmeasured left.

The product's users ask through the gateway again and again. Their product notes which answers it could not use, and
tells the share of them as a guard. Whoever moves the rollouts dies at some commit of every turn.
"""

from __future__ import annotations

import json
import random
import secrets
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import pytest
from kafka import KafkaConsumer, TopicPartition
from sqlalchemy.exc import OperationalError
from sqlmodel import select

from personalization.adapters.signing import ManifestSigner
from personalization.registry import steering
from personalization.registry.tables import AdapterVersionRow
from personalization.rollouts.replaying import replay
from personalization.rollouts.values import Mode, Stage
from privacy.errors import StorageError
from streams.broker import topics
from streams.broker.clients import KafkaSender, client_broker
from streams.contracts.topics import ADAPTER_EVENTS, ADAPTERS
from streams.gateway.choosing import drawn
from streams.gateway.desired import Line
from streams.outbox.relay import OutboxRelay
from streams.outbox.tables import OutboxRow
from streams.settings import BrokerSettings
from tests.conftest import KAFKA
from tests.fakes.engines import engine as fake_engine
from tests.fakes.gateways import GatewayThread, wait_until
from tests.fakes.rollouts import STEPS, RolloutShop, told_of
from tests.integration.personalization.releases.test_crashes import KilledError, dying

SUFFIX = secrets.token_hex(3)  # the broker may be shared
BETTER, WORSE, SILENT, PINNED = LINES = [
    f"{name}-{SUFFIX}" for name in ("better", "worse", "silent", "pinned")
]
USERS = [f"user-{number}" for number in range(40)]
UNUSABLE = {
    BETTER: 0.0,
    WORSE: 0.6,
}  # share of the candidate's answers that the product cannot use; others: untold
TURNS = 4


@pytest.fixture
def kafka_bootstrap(request):
    """Apache Kafka where there is one, else the embedded broker."""
    return KAFKA or request.getfixturevalue("embedded_bootstrap")


class World:
    """Four lines in a database, their desired states on a broker, and a gateway that serves them."""

    def __init__(self, shop, bootstrap, gateway, behind):
        self.shop, self.gateway, self._behind = shop, gateway, behind
        self.relay = OutboxRelay(
            shop.engine, KafkaSender(BrokerSettings(bootstrap=bootstrap)), batch_rows=100
        )
        self.chance = random.Random(7)
        self.saw: dict[str, set[str]] = {tenant: set() for tenant in LINES}
        self.first = {tenant: shop.publish(tenant) for tenant in LINES}
        self.candidate = {tenant: shop.publish(tenant) for tenant in LINES}
        self.names = {}
        with shop.session() as session:
            for row in session.exec(select(AdapterVersionRow)).all():
                self.names[row.version_id] = row.served_name
        behind.control(names=list(self.names.values()))
        gateway.verified.update(self.names.values())
        self.tokens = {}
        for tenant in LINES:
            gateway.lines[tenant] = {"default": shop.line_ref(tenant)}
            self.tokens[tenant] = gateway.token(tenant)
            shop.verify(self.candidate[tenant])

    def desired(self, tenant):
        """Return the newest desired state of a line, as it was sent."""
        with self.shop.session() as session:
            row = session.exec(
                select(OutboxRow)
                .where(OutboxRow.topic == ADAPTERS.name, OutboxRow.key == self.shop.line_ref(tenant).encode())
                .order_by(OutboxRow.outbox_id.desc())
                .limit(1)
            ).one()
            return json.loads(row.value)

    def due(self, tenant, user, state=None):
        """Return the version that a user is to get, by the newest desired state."""
        state = state or self.desired(tenant)
        rollout = state["rollout"]
        line = Line(
            line_ref="", adapter=None, candidate_percent=rollout["candidate_percent"], salt=rollout["salt"]
        )
        chosen = state["candidate"] if state["candidate"] and drawn(line, user) else state["adapter"]
        return self.names[chosen["version_id"]]

    def drawn(self, tenant):
        """Return the users who are to get a line's candidate."""
        name = self.names[self.candidate[tenant]]
        return {user for user in USERS if self.due(tenant, user) == name}

    def ask(self, tenant, user):
        """Return the version that answered a user."""
        raw = self.gateway.client(self.tokens[tenant]).chat.completions.with_raw_response.create(
            model="discreet", messages=[{"role": "user", "content": "a question"}], user=user
        )
        return raw.headers["x-discreet-version"]

    def move(self):
        """Let two workers move what is due: the first dies at one of its commits. Then send what waits."""
        error = self.chance.choice([KilledError(), OperationalError("commit", {}, Exception("gone"))])
        with (
            dying(
                self.shop.engine, self.chance.randrange(1, 5), durable=self.chance.random() < 0.5, error=error
            ),
            suppress(KilledError, StorageError, OperationalError),
        ):
            self.shop.run_tick()
        self.shop.run_tick()
        while self.relay.relay_once(self.shop.clock.now()):
            pass

    def use(self):
        """Let every user of every tenant ask once, and the products tell what they could not use."""
        states = {tenant: self.desired(tenant) for tenant in LINES}
        expected = {
            (tenant, user): self.due(tenant, user, states[tenant]) for tenant in LINES for user in USERS
        }
        for tenant in LINES:  # two users whose versions differ, if there are such
            told = {expected[tenant, user]: user for user in USERS}
            wait_until(lambda t=tenant, w=told: all(self.ask(t, user) == name for name, user in w.items()))
        with ThreadPoolExecutor(4) as pool:
            got = dict(zip(expected, pool.map(lambda place: self.ask(*place), expected), strict=True))
        assert got == expected, "every user gets the version of their own draw, and keeps it"
        for tenant in LINES:
            name = self.names[self.candidate[tenant]]
            people = {user for user in USERS if got[tenant, user] == name}
            self.saw[tenant] |= people
            if people and tenant in UNUSABLE:
                bad = sum(self.chance.random() < UNUSABLE[tenant] for _ in range(20 * len(people)))
                self.shop.measure(self.candidate[tenant], bad / (20 * len(people)))


@pytest.fixture
def world(engine, clock, tmp_path, kafka_bootstrap):
    with topics.open_admin({"bootstrap_servers": kafka_bootstrap}) as admin:
        topics.create_topics(admin, partitions=2)
    with ExitStack() as stack:
        behind = stack.enter_context(fake_engine("vllm"))
        shop = RolloutShop(engine, clock, tmp_path, tenant=LINES[0])
        for tenant in LINES[1:]:
            shop.add_tenant(tenant, **STEPS)
        shop.signer = ManifestSigner(bytes(range(32)))
        gateway = GatewayThread(tmp_path / "lines", url=behind.url)
        gateway.broker = client_broker(BrokerSettings(bootstrap=kafka_bootstrap))
        gateway.signer = shop.signer
        stack.enter_context(gateway)
        yield World(shop, kafka_bootstrap, gateway, behind)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_better_is_promoted_worse_and_unmeasured_are_left_and_pinned_stays(world, kafka_bootstrap):
    shop = world.shop
    with shop.session() as session:
        steering.set_mode(session, shop.events, PINNED, "default", Mode.PINNED, shop.act())
    share = None
    for _ in range(TURNS):
        world.move()
        if share is None:  # of the first step, whom alone a bad version may have reached
            share = {tenant: world.drawn(tenant) for tenant in LINES}
        world.use()
        shop.clock.advance(seconds=61)
    world.move()
    world.use()
    print({tenant: (shop.stands(tenant).stage.value, len(world.saw[tenant])) for tenant in LINES})
    assert shop.serving(BETTER) == world.candidate[BETTER]
    assert world.saw[BETTER] == set(USERS)
    for tenant in (WORSE, SILENT):
        assert shop.stands(tenant).stage is Stage.ROLLED_BACK
        assert shop.serving(tenant) == world.first[tenant]
        assert world.saw[tenant] == share[tenant]
        assert len(share[tenant]) < len(USERS) / 3
    assert shop.serving(PINNED) == world.first[PINNED]
    assert world.saw[PINNED] == set()
    told = events_on(kafka_bootstrap)
    for tenant in LINES:
        story = replay(told_of(document) for document in told[shop.line_ref(tenant)])
        assert story.serving == shop.serving(tenant)
        assert story.states == shop.states(tenant)
        stands = shop.stands(tenant)
        assert (story.rollout.stage, story.rollout.step, story.rollout.mode) == (
            stands.stage, stands.step, stands.mode,
        )  # fmt: skip


def events_on(bootstrap):
    """Return every event of each line, in order, as whoever reads the broker's topic alone has them."""
    told = {}
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap, consumer_timeout_ms=3000, auto_offset_reset="earliest"
    )
    partitions = [
        TopicPartition(ADAPTER_EVENTS.name, p) for p in consumer.partitions_for_topic(ADAPTER_EVENTS.name)
    ]
    consumer.assign(partitions)
    consumer.seek_to_beginning()
    for record in consumer:
        told.setdefault(record.key.decode(), {})[json.loads(record.value)["epoch"]] = json.loads(record.value)
    consumer.close()
    return {line: [document for _, document in sorted(of.items())] for line, of in told.items()}
