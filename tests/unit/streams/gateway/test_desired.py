"""What each line wants served, as the feed says: versions, styles, candidates, revocations, withdrawals, failures."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

import pytest

from streams.client import AdapterFeed, BrokerUnreachableError
from streams.client.testing import FakeLine, FakeSigner, InMemoryBroker
from streams.contracts.adapter import AdapterStateV1, RolloutV1
from streams.gateway.desired import DesiredState, Version, line_of
from tests.fakes.gateways import style, wait_until


@pytest.fixture
def line(tmp_path):
    return FakeLine(tmp_path)


def state(line, adapter, **changes):
    return AdapterStateV1(
        line_ref=line.line_ref, epoch=1, adapter=adapter, updated_at=datetime.now(UTC), **changes
    )


def test_what_a_request_needs_is_kept(line):
    version = line.version(1, style=style("T {{ prompt }}", "a+", "root ::= [a]+"))
    wanted = line_of(state(line, version))
    assert wanted.adapter == Version(
        served_name=version.served_name,
        template="T {{ prompt }}",
        pattern="a+",
        grammar="root ::= [a]+",
        card=b"{}",
    )
    assert line_of(state(line, line.version(2))).adapter.template == ""


def test_a_candidate_and_its_share(line):
    one, two = line.version(1), line.version(2)
    rollout = RolloutV1(stage=1, candidate_percent=12.5, salt="s")
    wanted = line_of(state(line, one, candidate=two, rollout=rollout))
    assert wanted.candidate.served_name == two.served_name
    assert (wanted.candidate_percent, wanted.salt) == (12.5, "s")


def test_what_is_revoked_is_wanted_by_nobody(line):
    one, two = line.version(1), line.version(2)
    revoked = (one.version_id, two.version_id)
    wanted = line_of(state(line, one, candidate=two, revoked_version_ids=revoked))
    assert (wanted.adapter, wanted.candidate) == (None, None)


class Reading:
    """A desired state that is read in a thread."""

    def __init__(self, broker, signer):
        self.opened = 0
        self.broker, self.signer = broker, signer
        self.state = DesiredState(self.open, most_seconds=0.4)
        self.stop = threading.Event()
        self.failures = []

    def open(self):
        self.opened += 1
        return AdapterFeed(self.broker, trusted_keys=[self.signer.public_key])

    def run(self):
        while not self.stop.is_set():
            try:
                self.state.run(self.stop)
            except BrokerUnreachableError as error:
                self.failures.append(error)
                self.stop.wait(0.05)

    def __enter__(self):
        self.thread = threading.Thread(target=self.run)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()


def test_it_follows_versions_and_withdrawals(tmp_path):
    broker, signer = InMemoryBroker(), FakeSigner()
    line = FakeLine(tmp_path, signer=signer)
    line.publish(broker, line.version(1))
    with Reading(broker, signer) as reading:
        wait_until(lambda: reading.state.caught_up)
        assert reading.state.line(line.line_ref).adapter.served_name.endswith("-v1")
        line.publish(broker, line.version(2))
        wait_until(lambda: reading.state.line(line.line_ref).adapter.served_name.endswith("-v2"))
        line.withdraw(broker)
        wait_until(lambda: reading.state.line(line.line_ref) is None)


def test_after_a_failure_everything_is_read_again(tmp_path):
    """A feed that failed in the middle of its first reading has handed out what it will not hand out again."""
    broker, signer = InMemoryBroker(), FakeSigner()
    lines = [FakeLine(tmp_path, line_ref=f"{number:012x}", signer=signer) for number in range(3)]
    for line in lines:
        line.publish(broker, line.version(1))
    with Reading(broker, signer) as reading:
        wait_until(lambda: reading.state.caught_up)
        opened = reading.opened

        real = reading.state._open_feed
        failing = [True]

        class Failing(AdapterFeed):
            def poll(self, timeout_seconds=1.0):
                updates = super().poll(timeout_seconds)
                if failing and updates:
                    failing.clear()
                    raise BrokerUnreachableError("lost in the middle")
                return updates

        reading.state._open_feed = lambda: Failing(broker, trusted_keys=[signer.public_key])
        reading.stop.set()
        reading.thread.join()
        lines[0].withdraw(broker)
        broker.compact("discreet.adapters.v1")
        broker.drop_tombstones("discreet.adapters.v1")  # so nothing says any more that it is gone
        reading.stop.clear()
        reading.__enter__()
        wait_until(lambda: reading.failures and reading.state.line(lines[0].line_ref) is None)
        assert all(reading.state.line(line.line_ref) is not None for line in lines[1:])
        assert opened == 1
        assert real is not None


def test_a_version_signed_by_nobody_we_trust_is_not_wanted(tmp_path):
    broker = InMemoryBroker()
    line = FakeLine(tmp_path, signer=FakeSigner(b"another key for tests, 32 bytes."))
    line.publish(broker, line.version(1))
    with Reading(broker, FakeSigner()) as reading:
        wait_until(lambda: reading.state.caught_up)
        assert reading.state.line(line.line_ref) is None
