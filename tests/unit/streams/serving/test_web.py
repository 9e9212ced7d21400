"""What the serving process bounds: connections, headers, what waits for the model, and what a body may say."""

from __future__ import annotations

import json
import socket
import threading
import time

import pytest

from personalization.prompts.rendering import rendering_of
from personalization.prompts.values import PromptTemplate
from streams.serving.holder import Holdings
from streams.serving.tokens import server_tokens
from streams.serving.web import MAX_PAIRS, MAX_PROMPTS, MAX_WAITING, ServingWeb


class Host:
    """Answers at once, or waits until it is let go."""

    def __init__(self):
        self.go = threading.Event()
        self.go.set()
        self.favoured = []

    def answers(self, prompts, *, name, max_new_tokens, favour=()):
        assert self.go.wait(30)
        self.favoured.append(list(favour))
        if name is not None:
            raise KeyError(name)
        return [prompt[:max_new_tokens] for prompt in prompts]

    def losses(self, pairs, *, name):
        return [1.0 for _ in pairs]


@pytest.fixture
def host():
    return Host()


@pytest.fixture
def web(host):
    with ServingWeb(
        port=0, token="t0", host=host, holdings=Holdings(), header_seconds=1.0, most_connections=60
    ) as web:
        yield web


def connect(web):
    return socket.create_connection(("127.0.0.1", web.port), timeout=30)


def answered(connection):
    answer = b""
    try:
        while chunk := connection.recv(65_536):
            answer += chunk
    except ConnectionError:
        pass
    return answer


def status(connection):
    answer = answered(connection)
    return int(answer.split(b" ", 2)[1]) if answer else None


def post(web, body, *, path="/v1/answers", authorization=b"Bearer t0"):
    connection = connect(web)
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.sendall(
        b"POST %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: %b\r\nContent-Length: %d\r\n\r\n%b"
        % (path.encode(), authorization, len(body), body)
    )
    return connection


def asked(web, body, **more):
    with post(web, body, **more) as connection:
        return status(connection)


@pytest.mark.parametrize(
    "body",
    [
        b"abc",
        b"[]",
        b"Infinity",
        b'{"prompt": NaN}',
        b"[" * 100_000,
        b'{"prompt": "\xff"}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "\\u0000"}',
        {"prompt": 3},
        {"prompts": "hi"},
        {"prompts": ["x"] * (MAX_PROMPTS + 1)},
        {"prompts": ["x", None]},
        {},
        {"prompt": "x", "model": ["a"]},
        {"prompt": "x", "template": True},
        {"prompt": "x", "max_new_tokens": "many"},
        {"prompt": "x", "max_new_tokens": -5},
        {"prompt": "x", "max_new_tokens": True},
        {"prompt": "x", "max_new_tokens": 1.5},
    ],
)
def test_a_body_that_is_not_what_it_must_be_is_refused(web, body):
    assert asked(web, body) == 400


@pytest.mark.parametrize("pairs", [None, {}, [["a"]], [["a", 1]], ["ab"], [["a", "b"]] * (MAX_PAIRS + 1)])
def test_pairs_that_are_none_or_too_many_are_refused(web, pairs):
    assert asked(web, {"pairs": pairs}, path="/v1/losses") == 400


def test_what_is_fine_is_answered(web):
    assert asked(web, {"prompt": "hi"}) == 200
    assert asked(web, {"prompt": "hi", "model": "a-1"}) == 404
    assert asked(web, {"pairs": [["a", "b"]]}, path="/v1/losses") == 200


@pytest.mark.parametrize("length", [b"-1", b"abc", b"1_0"])
def test_a_length_that_is_none_is_refused_and_nothing_is_read(web, length):
    with connect(web) as connection:
        connection.sendall(
            b"POST /v1/answers HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer t0\r\n"
            b"Content-Length: %b\r\n\r\n{}" % length
        )
        assert status(connection) == 400


def test_a_token_that_is_no_text_is_a_wrong_one(web):
    assert asked(web, {"prompt": "hi"}, authorization=b"Bearer \xff\xfe") == 401


def test_threads_and_what_waits_for_the_model_are_bounded(web, host):
    host.go.clear()
    before = threading.active_count()
    held = [post(web, {"prompt": "hi"}) for _ in range(MAX_WAITING)]
    deadline = time.monotonic() + 20
    while web._waiting < MAX_WAITING and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [asked(web, {"prompt": "hi"}) for _ in range(3)] == [429] * 3
    assert threading.active_count() <= before + 2
    host.go.set()
    assert [status(connection) for connection in held] == [200] * MAX_WAITING
    for connection in held:
        connection.close()
    assert asked(web, {"prompt": "hi"}) == 200


def test_slow_connections_are_closed_and_take_no_threads(web):
    before = threading.active_count()
    slow = [connect(web) for _ in range(60)]
    for connection in slow:
        connection.sendall(b"POST /v1/answers HT")
    with connect(web) as refused:
        assert refused.recv(1) == b""  # one too many
    assert threading.active_count() <= before  # of tests before some may end meanwhile
    for connection in slow:
        assert connection.recv(1) == b""
        connection.close()
    assert asked(web, {"prompt": "hi"}) == 200


def test_a_template_is_that_of_a_line_that_the_token_reaches(host):
    holdings = Holdings(templates={"one": rendering_of(PromptTemplate(source="Calmly: {{ prompt }}"))})
    tokens = server_tokens("all", "half-of-it-0123456789=two")
    with ServingWeb(port=0, token=tokens, host=host, holdings=holdings) as web:
        for line, told in (("one", "Calmly: why"), ("two", "why")):
            with post(web, {"prompt": "why", "template": line}, authorization=b"Bearer all") as connection:
                answer = json.loads(answered(connection).split(b"\r\n\r\n", 1)[1])
            assert answer["text"] == told
            assert (answer["template"] is None) == (line == "two")
        body = {"prompt": "why", "template": "one"}
        assert asked(web, body, authorization=b"Bearer half-of-it-0123456789") == 404


def test_names_to_favour_reach_the_model_and_are_few_and_short(web, host):
    def asked(**more):
        with post(web, {"prompt": "a", **more}) as connection:
            return status(connection)

    assert (asked(favour=["Acme", "Kubernetes"]), asked()) == (200, 200)
    assert host.favoured == [["Acme", "Kubernetes"], []]
    for wrong in ("Acme", ["a"] * 13, [""], ["a" * 81], [1], {}):
        assert asked(favour=wrong) == 400
    assert len(host.favoured) == 2
