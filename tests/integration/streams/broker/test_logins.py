"""The worker's clients log in as the settings say: SCRAM over TLS with an own authority, and access tokens."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import secrets
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.errors import KafkaTimeoutError, TopicAlreadyExistsError

from streams.broker.app import make_app
from streams.broker.clients import KafkaSender, client_options, missing_topics
from streams.broker.records import OutgoingRecord
from streams.broker.tokens import ClientCredentials, KafkaPythonTokens, TokenFile
from streams.client.testing import FakeSigner
from streams.contracts.topics import ADAPTERS
from streams.errors import AccessTokenError, BrokerUnavailableError, SettingsError
from streams.ingest.intake import Intake
from streams.ingest.work import Outcome
from streams.processes.server import open_feed
from streams.settings import BrokerSettings, IngestSettings, Settings, load_settings

DEADLINE_SECONDS = 60


def unsigned_token():
    """A token that the test broker accepts: unsigned, for one subject."""
    now = int(time.time())
    parts = ({"alg": "none"}, {"sub": "product", "iat": now - 5, "exp": now + 600})
    return "".join(base64.urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=") + "." for p in parts)


@pytest.fixture
def token_server():
    """An authorization server with one client; yields its address and the requests it got."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            known = base64.b64encode(b"discreet:s%2Fcret").decode()
            allowed = self.headers["Authorization"] == f"Basic {known}"
            asked.append(form)
            body = {"access_token": unsigned_token(), "expires_in": 100} if allowed else {"error": "no"}
            self.send_response(200 if allowed else 401)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/token", asked
    server.shutdown()
    server.server_close()
    thread.join(10)


def test_a_sender_whose_broker_does_not_answer_leaves_nothing_behind(caplog):
    caplog.set_level("CRITICAL", logger="kafka")  # records of the log would keep connections

    def open_files_and_threads():
        return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        sender = KafkaSender(BrokerSettings(bootstrap=address, delivery_timeout_seconds=0.2))
        before = open_files_and_threads()
        for _ in range(5):
            with pytest.raises(BrokerUnavailableError):
                sender.send_all([OutgoingRecord("t", b"k", b"v", [])])
        assert open_files_and_threads() <= before


def test_a_producer_that_cannot_be_closed_in_time_is_a_broker_that_is_away():
    """Anything but a retryable error would dead-letter good events while the broker is away."""

    class Stuck:
        def send(self, *_args, **_options):
            raise KafkaTimeoutError("no room")

        def close(self, timeout):
            raise KafkaTimeoutError("records are still on their way")

    sender = KafkaSender(BrokerSettings())
    sender._producer = Stuck()
    with pytest.raises(BrokerUnavailableError):
        sender.send_all([OutgoingRecord("t", b"k", b"v", [])])
    assert sender._producer is None


def test_a_token_is_kept_until_most_of_its_life_is_over(token_server):
    url, asked = token_server
    now = [0.0]
    tokens = ClientCredentials(url, "discreet", "s/cret", "kafka", monotonic=lambda: now[0])
    first = tokens.token()
    now[0] = 79
    assert tokens.token() == first
    assert len(asked) == 1
    now[0] = 81
    tokens.token()
    assert asked == [{"grant_type": ["client_credentials"], "scope": ["kafka"]}] * 2


def test_a_refused_client_is_told_and_the_secret_is_not(token_server):
    url, _ = token_server
    with pytest.raises(AccessTokenError, match="401") as refused:
        ClientCredentials(url, "discreet", "wrong-secret").token()
    assert "wrong-secret" not in str(refused.value)


def test_a_token_file_is_read_again_each_time(tmp_path):
    path = tmp_path / "token"
    tokens = KafkaPythonTokens(TokenFile(path))
    with pytest.raises(Exception, match="cannot be read"):
        tokens.token()
    for text in ("first", "second"):
        path.write_text(text + "\n")
        assert tokens.token() == text


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"SECURITY_PROTOCOL": "SASL_SSL"}, "SCRAM-SHA-512 needs sasl_username"),
        ({"SECURITY_PROTOCOL": "SASL_SSL", "SASL_MECHANISM": "OAUTHBEARER"}, "OAUTHBEARER needs either"),
        ({"SASL_USERNAME": "product", "SASL_PASSWORD": "hidden-word"}, "PLAINTEXT would not use"),
        ({"CA_FILE": "/ca.pem"}, "PLAINTEXT would not use"),
        ({"OAUTH_TOKEN_URL": "http://login.example/token"}, "https://"),
    ],
)
def test_a_login_that_would_not_be_used_or_lacks_a_part_is_refused(monkeypatch, values, problem):
    for name, value in values.items():
        monkeypatch.setenv(f"DISCREET_BROKER__{name}", value)
    with pytest.raises(SettingsError, match=problem) as refused:
        load_settings()
    assert "hidden-word" not in str(refused.value)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {
            "security_protocol": "SSL",
            "ca_file": "/ca.pem",
            "certificate_file": "/c.pem",
            "key_file": "/k.pem",
        },
        {"security_protocol": "SASL_SSL", "sasl_username": "u", "sasl_password": "p", "ca_file": "/ca.pem"},
        {
            "security_protocol": "SASL_PLAINTEXT",
            "sasl_mechanism": "PLAIN",
            "sasl_username": "u",
            "sasl_password": "p",
        },
        {"security_protocol": "SASL_SSL", "sasl_mechanism": "OAUTHBEARER", "oauth_token_file": "token"},
    ],
)
def test_a_server_follows_its_feed_with_the_login_of_the_worker(values, tmp_path, monkeypatch):
    (tmp_path / "token").write_text("a-token")
    monkeypatch.chdir(tmp_path)
    settings = Settings(broker=BrokerSettings(bootstrap="a:1,b:2", **values))
    opened = []
    monkeypatch.setattr("streams.processes.server.AdapterFeed", lambda broker, **_: opened.append(broker))
    open_feed(settings, [])

    def comparable(options):
        if "sasl_oauth_token_provider" in options:
            options["sasl_oauth_token_provider"] = options["sasl_oauth_token_provider"].token()
        return options

    worker, server = comparable(client_options(settings.broker)), comparable(opened[0].common_options())
    assert {name: server.get(name) for name in worker} == worker


if "DISCREET_TEST_KAFKA_OAUTH" in os.environ:
    PLAIN = os.environ["DISCREET_TEST_KAFKA"]

    def scram(password="for-tests", **more):
        return BrokerSettings(
            bootstrap=os.environ["DISCREET_TEST_KAFKA_SCRAM"],
            security_protocol="SASL_SSL",
            sasl_username="product",
            sasl_password=password,
            ca_file=os.environ["DISCREET_TEST_KAFKA_CA"],
            **more,
        )

    @pytest.fixture(params=["scram over tls", "token from a server", "token in a file"])
    def settings(request, tmp_path, token_server):
        shared = {"group": f"logins-{secrets.token_hex(6)}", "delivery_timeout_seconds": 60}
        if request.param == "scram over tls":
            return scram(**shared)
        shared |= {
            "bootstrap": os.environ["DISCREET_TEST_KAFKA_OAUTH"],
            "security_protocol": "SASL_PLAINTEXT",
            "sasl_mechanism": "OAUTHBEARER",
        }
        if request.param == "token in a file":
            path = tmp_path / "token"
            path.write_text(unsigned_token())
            return BrokerSettings(oauth_token_file=path, **shared)
        return BrokerSettings(
            oauth_token_url=token_server[0],
            oauth_client_id="discreet",
            oauth_client_secret="s/cret",
            **shared,
        )

    def test_the_worker_reads_commits_and_writes_after_logging_in(settings):
        topic = settings.group
        with KafkaAdminClient(bootstrap_servers=PLAIN) as admin:
            admin.create_topics({topic: {"num_partitions": 1, "replication_factor": 1}})
        assert missing_topics(settings, [topic, "nowhere"]) == ["nowhere"]
        sender = KafkaSender(settings)
        sender.send_all([OutgoingRecord(topic, b"k", b"%d" % number, []) for number in range(5)])
        sender.close()
        seen = []

        class Handler:
            def process(self, works, offsets=None):
                seen.extend(work.record.value for work in works)
                return Outcome(effects=len(works))

        async def main():
            intake = Intake(topic, Handler(), IngestSettings())
            app = make_app(settings, {topic: intake}, max_poll_records=10)
            loop = asyncio.create_task(intake.run())
            await app.start()
            try:
                async with asyncio.timeout(DEADLINE_SECONDS):
                    while len(seen) < 5:
                        await asyncio.sleep(0.05)
            finally:
                await app.stop()
                loop.cancel()

        asyncio.run(main())
        assert seen == [b"%d" % number for number in range(5)]
        consumer = KafkaConsumer(bootstrap_servers=PLAIN, group_id=settings.group)
        assert consumer.committed(TopicPartition(topic, 0)) == 5
        consumer.close()

    def test_a_server_reads_its_feed_after_logging_in(settings):
        with KafkaAdminClient(bootstrap_servers=PLAIN) as admin, contextlib.suppress(TopicAlreadyExistsError):
            admin.create_topics({ADAPTERS.name: {"num_partitions": 1, "replication_factor": 1}})
        keys = [FakeSigner().public_key]
        with open_feed(Settings(broker=settings), keys) as feed:
            feed.snapshot()
            assert feed.caught_up

    def test_a_wrong_password_is_a_broker_that_cannot_be_reached(caplog):
        caplog.set_level("CRITICAL", logger="kafka")
        sender = KafkaSender(scram("not-it", delivery_timeout_seconds=1))
        with pytest.raises(BrokerUnavailableError) as refused:
            sender.send_all([OutgoingRecord("t", b"k", b"v", [])])
        assert "not-it" not in str(refused.value)
