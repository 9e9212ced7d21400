"""A trainer over HTTP: alive for everybody, metrics for the platform operator alone, and real rounds in them."""

import urllib.error
import urllib.request

import pytest

from streams.http.logins import BURST
from streams.processes.trainer import probe_of
from streams.settings import HttpSettings, Settings, TrainerSettings
from streams.telemetry.trainer_metrics import TrainerMetrics


@pytest.fixture
def world():
    now = [0.0]
    metrics = TrainerMetrics(stall_seconds=60.0, monotonic=lambda: now[0])

    def start(token="platform-token"):
        http, trainer = HttpSettings(token=token), TrainerSettings(http_port=0)
        return probe_of(Settings(http=http, trainer=trainer), metrics)

    return now, start


def ask(port, path, token=None):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}")
    if token is not None:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_liveness_is_for_everybody_and_metrics_for_the_operator(world):
    now, start = world
    with start() as port:
        assert ask(port, "/healthz") == (200, '{"status": "alive"}')
        now[0] = 61.0
        assert ask(port, "/healthz") == (503, '{"status": "stalled"}')
        status, text = ask(port, "/metrics", "platform-token")
        assert status == 200
        assert "discreet_rounds_leased_total 0.0" in text
        assert ask(port, "/metrics")[0] == 401
        assert ask(port, "/nothing")[0] == 404
        guesses = [ask(port, "/metrics", "guess")[0] for _ in range(BURST + 1)]
        assert guesses == [401] * BURST + [429]
        assert ask(port, "/metrics", "platform-token")[0] == 200


def test_without_a_token_nobody_reads_the_metrics(world):
    _, start = world
    with start(token=None) as port:
        assert ask(port, "/healthz")[0] == 200
        assert ask(port, "/metrics", "any")[0] == 401


def test_without_a_port_nothing_listens():
    with probe_of(Settings(), TrainerMetrics(stall_seconds=60.0)) as port:
        assert port is None
