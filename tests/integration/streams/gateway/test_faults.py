"""What goes wrong with engines and adapters ends in the base or in a status, never in another tenant's adapter."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
import urllib.request

import openai
import pytest

from tests.fakes.engines import engine
from tests.fakes.gateways import GatewayThread, style, wait_until

HI = [{"role": "user", "content": "hi"}]
OTHER = "a-00000000ffff-v1"


@pytest.fixture(params=["vllm", "llamacpp"])
def behind(request):
    with engine(request.param) as process:
        yield process


@pytest.fixture
def gateway(behind, tmp_path):
    with GatewayThread(tmp_path, engine=behind.kind, url=behind.url, connect_seconds=1.0) as gateway:
        gateway.acme = gateway.token("acme")
        gateway.name = gateway.publish("acme")
        behind.control(names=[gateway.name, OTHER])
        wait_until(lambda: said(gateway)[1] == gateway.name)
        yield gateway


def said(gateway, **more):
    """Return (who answered, what the header says did, why)."""
    client = gateway.client(gateway.acme)
    raw = client.chat.completions.with_raw_response.create(**{"model": "discreet", "messages": HI, **more})
    by = raw.parse().choices[0].message.content.split("|")[0]
    return by, raw.headers["x-discreet-version"], raw.headers["x-discreet-reason"]


def streamed(gateway):
    pieces = gateway.client(gateway.acme).chat.completions.create(model="discreet", messages=HI, stream=True)
    return "".join(piece.choices[0].delta.content or "" for piece in pieces).split("|")[0]


def test_an_adapter_that_the_engine_lost_is_answered_by_the_base(gateway, behind):
    behind.control(names=[OTHER])
    by, version, reason = said(gateway)
    # llama.cpp's list had moved, so what it answered was thrown away; vLLM knew no such model.
    assert (by, version) == ("base", "base")
    assert reason in ("not_held", "wrong_answerer")
    assert streamed(gateway) == "base"
    behind.control(names=[gateway.name])
    wait_until(lambda: said(gateway)[1] == gateway.name)


def test_a_version_that_no_server_verified_is_not_used(gateway, behind):
    second = gateway.publish("acme", 2, verified=False)
    behind.control(names=[gateway.name, second, OTHER])
    wait_until(lambda: said(gateway) == ("base", "base", "not_verified"))
    gateway.verified.add(second)
    wait_until(lambda: said(gateway) == (second, second, "applied"))
    gateway.verified.discard(second)  # failed, or unloaded
    wait_until(lambda: said(gateway) == ("base", "base", "not_verified"))


def test_a_withdrawn_line_is_answered_by_the_base(gateway):
    gateway.line("acme").withdraw(gateway.broker)
    wait_until(lambda: said(gateway) == ("base", "base", "no_adapter"))


def test_a_restarted_engine_forgets_everything_and_gets_it_back(gateway, behind):
    behind.restart()
    wait_until(lambda: said_or_none(gateway) is not None)
    assert said(gateway)[:2] == ("base", "base")
    behind.control(names=[OTHER, gateway.name])
    wait_until(lambda: said(gateway)[1] == gateway.name)
    assert said(gateway)[0] == gateway.name


def said_or_none(gateway):
    try:
        return said(gateway)
    except openai.InternalServerError:
        return None


def test_an_engine_that_is_gone_is_a_503_that_says_so(gateway, behind):
    behind.process.send_signal(signal.SIGSTOP)
    behind.kill()
    with pytest.raises(openai.InternalServerError) as refused:
        said(gateway)
    assert refused.value.status_code == 503
    assert refused.value.response.headers["x-discreet-reason"] == "engine_down"
    assert refused.value.response.headers["x-discreet-version"] == "base"
    assert int(refused.value.response.headers["retry-after"]) >= 1


def test_the_fallback_answers_with_the_tenants_own_template(behind, tmp_path):
    with (
        engine("openai") as second,
        GatewayThread(tmp_path, engine=behind.kind, url=behind.url, fallback_url=second.url) as gateway,
    ):
        gateway.acme = gateway.token("acme")
        gateway.name = gateway.publish("acme", style=style("Acme says.\nPrompt: {{ prompt }}"))
        behind.control(names=[gateway.name])
        wait_until(lambda: said(gateway)[1] == gateway.name)
        behind.kill()
        raw = gateway.client(gateway.acme).chat.completions.with_raw_response.create(
            model="discreet", messages=HI
        )
        assert raw.parse().choices[0].message.content == "base|Acme says.\nPrompt: hi"
        assert raw.headers["x-discreet-reason"] == "engine_down"
        assert raw.headers["x-discreet-version"] == "base"
        assert raw.headers["x-discreet-template"] != "none"


def test_another_model_that_answers_is_thrown_away(gateway, behind):
    behind.control(fault="swap" if behind.kind == "vllm" else "renumber")
    assert said(gateway) == ("base", "base", "wrong_answerer")
    behind.control(fault="swap" if behind.kind == "vllm" else "renumber", names=[gateway.name, OTHER])
    wait_until(lambda: streamed(gateway) == "base" or behind.kind == "llamacpp")
    assert streamed(gateway) != OTHER


def test_a_client_that_leaves_ends_the_engines_work_before_and_within_a_stream(gateway, behind):
    for fault, pause in (("silent", 0.0), ("", 0.3)):
        behind.control(fault=fault, pause=pause, pieces=100)
        left = behind.seen()["left"]
        body = json.dumps({"model": "discreet", "messages": HI, "stream": True}).encode()
        with socket.create_connection(("127.0.0.1", gateway.port)) as connection:
            connection.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (gateway.acme.encode(), len(body), body)
            )
            wait_until(lambda: behind.seen()["running"] == 1)
            if not fault:
                assert connection.recv(100)
        wait_until(lambda: behind.seen()["running"] == 0)
        assert behind.seen()["left"] >= left


def test_a_client_that_leaves_ends_an_answer_in_one_piece(gateway, behind):
    behind.control(fault="silent")
    body = json.dumps({"model": "discreet", "messages": HI}).encode()
    with socket.create_connection(("127.0.0.1", gateway.port)) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (gateway.acme.encode(), len(body), body)
        )
        wait_until(lambda: behind.seen()["running"] == 1)
    wait_until(lambda: behind.seen()["running"] == 0)


def test_silence_is_broken_by_pings(behind, tmp_path):
    with GatewayThread(tmp_path, engine=behind.kind, url=behind.url, ping_seconds=0.2) as gateway:
        acme = gateway.token("acme")
        behind.control(pause=0.7)
        with request(gateway, acme, "hi", stream=True) as answer:
            content = answer.read()
    assert content.count(b": ping\n\n") >= 4
    assert content.endswith(b"data: [DONE]\n\n")


def test_silence_that_lasts_ends_in_an_error(behind, tmp_path):
    with GatewayThread(
        tmp_path, engine=behind.kind, url=behind.url, between_seconds=1.0, first_seconds=1.0
    ) as gateway:
        gateway.acme = gateway.token("acme")
        behind.control(pause=3.0)
        with pytest.raises(openai.APIError, match=r"silent|broke off"):
            streamed(gateway)
        behind.control(fault="silent")
        with pytest.raises(openai.InternalServerError):
            streamed(gateway)


def request(gateway, token, text, *, stream):
    body = json.dumps(
        {"model": "discreet", "messages": [{"role": "user", "content": text}], "stream": stream}
    )
    asked = urllib.request.Request(
        f"{gateway.url}/v1/chat/completions", body.encode(), {"Authorization": f"Bearer {token}"}
    )
    return urllib.request.urlopen(asked, timeout=60)


@pytest.mark.parametrize("pause", [0.0, 0.2])
def test_the_end_of_a_large_body_is_not_taken_for_a_header(gateway, pause):
    body = json.dumps({"model": "discreet", "messages": [{"role": "user", "content": "x" * 900_000}]})
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {gateway.acme}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=30) as connection:
        for _ in range(3):
            connection.sendall(head.encode())
            time.sleep(pause)
            connection.sendall(body[:1_000].encode())
            time.sleep(pause)
            connection.sendall(body[1_000:].encode())
            answer = b""
            while b"\r\n\r\n" not in answer:
                more = connection.recv(65_536)
                assert more, answer
                answer += more
            start, _, rest = answer.partition(b"\r\n\r\n")
            assert start.startswith(b"HTTP/1.1 200")
            left = int(start.lower().split(b"content-length: ")[1].split(b"\r\n")[0]) - len(rest)
            while left:
                left -= len(connection.recv(min(left, 65_536)))


def test_a_reader_that_does_not_read_holds_the_engine_back(gateway, behind):
    behind.control(pieces=400, repeat=200)  # 80 MB in pieces of 200 kB: more than all buffers in between
    with request(gateway, gateway.acme, "x" * 400_000, stream=True) as answer:
        wait_until(lambda: behind.seen()["running"] == 1)
        time.sleep(4.0)
        assert behind.seen()["running"] == 1  # the engine waits, because the gateway keeps nothing
        received = 0
        while chunk := answer.read(2**20):
            received += len(chunk)
    assert received > 80_000_000


def test_it_drains_what_is_in_progress_when_told_to_stop(gateway, behind):
    behind.control(pause=0.5, pieces=4)
    got = []
    thread = threading.Thread(target=lambda: got.append(streamed(gateway)))
    thread.start()
    wait_until(lambda: behind.seen()["running"] == 1)
    gateway.stop()
    thread.join(30)
    assert got == [gateway.name]
    wait_until(lambda: gateway.stopped)
    with pytest.raises(OSError, match=r"refused|urlopen"):
        urllib.request.urlopen(gateway.url + "/healthz", timeout=5)
