"""The embedded broker starts, answers, and never outlives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer

from streams.broker.embedded import EmbeddedBroker, answers
from streams.cli.main import main
from streams.errors import BrokerUnavailableError


def runs(pid):
    """Whether a process exists and is not a zombie that nobody has collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition):
    for _ in range(4500):  # 90 seconds at least
        if condition():
            return True
        time.sleep(0.02)
    return False


def test_it_answers_until_it_is_stopped(tmp_path):
    log = tmp_path / "logs" / "broker.log"
    with EmbeddedBroker(log_path=log) as broker:
        host, port = broker.bootstrap.split(":")
        pid = broker.pid
        assert answers(host, int(port))
        assert broker.start() == broker.bootstrap
    assert broker.bootstrap == ""
    assert not runs(pid)
    assert not answers(host, int(port))
    assert "ready" in log.read_text()
    broker.stop()


def test_a_group_gets_its_partitions_and_commits(embedded_bootstrap):
    with KafkaAdminClient(bootstrap_servers=embedded_bootstrap) as admin:
        admin.create_topics({"embedded-group-test": {"num_partitions": 1, "replication_factor": 1}})
    producer = KafkaProducer(bootstrap_servers=embedded_bootstrap)
    producer.send("embedded-group-test", b"v", key=b"k").get(60)
    producer.close()
    options = {
        "bootstrap_servers": embedded_bootstrap,
        "group_id": "embedded-group",
        "auto_offset_reset": "earliest",
        "enable_auto_commit": False,
        "session_timeout_ms": 10_000,
        "heartbeat_interval_ms": 500,
    }
    with KafkaConsumer("embedded-group-test", **options) as consumer:
        records = []
        assert wait_until(lambda: records.extend(consumer.poll(200).values()) or records)
        consumer.commit()
        (partition,) = consumer.assignment()
        assert consumer.committed(partition) == 1


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_it_goes_when_its_parent_goes(end):
    program = (
        "import time\n"
        "from streams.broker.embedded import EmbeddedBroker\n"
        "broker = EmbeddedBroker(); broker.start(); print(broker.pid, flush=True); time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    with parent:
        pid = int(parent.stdout.readline())
        assert runs(pid)
        os.kill(parent.pid, end)
    assert wait_until(lambda: not runs(pid))


def test_a_broker_that_cannot_start_is_reported(tmp_path):
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho no such engine >&2\nexit 3\n")
    broken.chmod(0o755)
    with pytest.raises(BrokerUnavailableError, match="no such engine"):
        EmbeddedBroker(binary=broken).start()


def test_a_taken_port_is_reported():
    with EmbeddedBroker() as broker:
        port = int(broker.bootstrap.split(":")[1])
        with pytest.raises(BrokerUnavailableError, match=str(port)):
            EmbeddedBroker(port=port).start()


def test_nothing_answers_on_a_port_without_a_broker():
    assert not answers("127.0.0.1", 1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_runs_a_broker_until_it_is_told_to_stop(number):
    command = [sys.executable, "-m", "streams.cli.main", "broker", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        first, settings = running.stdout.readline(), running.stdout.readline()
        host, port = first.split(" listens on ")[1].split()[0].split(":")
        assert "nothing it holds survives" in first
        assert f"DISCREET_BROKER__BOOTSTRAP={host}:{port} DISCREET_BROKER__EMBEDDED=true" in settings
        assert host == "127.0.0.1"
        assert answers(host, int(port))
        running.send_signal(number)
        out, err = running.communicate(timeout=60)
    assert (running.returncode, err) == (0, "")
    assert "stopped" in out
    assert not answers(host, int(port))


def test_the_command_says_when_the_broker_dies_or_the_port_is_taken(monkeypatch, capsys):
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # pytest keeps its own handlers
    with EmbeddedBroker() as broker:
        port = broker.bootstrap.split(":")[1]
        assert main(["broker", "--port", port]) == BrokerUnavailableError.exit_status
    assert "answers on port" in capsys.readouterr().err
    monkeypatch.setattr(EmbeddedBroker, "running", False)
    assert main(["broker", "--port", "0"]) == BrokerUnavailableError.exit_status
    assert "ended by itself" in capsys.readouterr().err
