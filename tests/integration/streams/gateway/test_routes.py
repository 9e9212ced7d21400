"""The gateway's edges: who is let in, how much, what is told of feedback, what the operator reads, what is logged."""

from __future__ import annotations

import json
import socket
import threading
import urllib.error
import urllib.request

import openai
import pytest

from privacy.errors import StorageError
from streams.gateway.callers import Right
from streams.gateway.listening import MOST_HEADER_BYTES
from tests.fakes.engines import engine
from tests.fakes.gateways import GatewayThread, wait_until

HI = [{"role": "user", "content": "a secret question"}]


@pytest.fixture(scope="module")
def behind():
    with engine("vllm") as process:
        yield process


@pytest.fixture(scope="module")
def gateway(behind, tmp_path_factory):
    bounds = {
        "most_requests": 6,
        "most_requests_per_tenant": 4,
        "most_body_bytes": 10_000,
        "feedback_seconds": 3600.0,
    }
    with GatewayThread(tmp_path_factory.mktemp("lines"), url=behind.url, **bounds) as gateway:
        gateway.tokens = {tenant: gateway.token(tenant) for tenant in ("acme", "globex")}
        gateway.front_end = gateway.token("acme", rights={Right.CHAT, Right.FEEDBACK})
        gateway.names = {tenant: gateway.publish(tenant) for tenant in gateway.tokens}
        behind.control(names=list(gateway.names.values()))
        gateway.consent("acme", "ann")
        for tenant, token in gateway.tokens.items():
            wait_until(lambda a=token, b=gateway.names[tenant]: ask(gateway, a)[0] == b)
        # A token that was good before others were guessed from its address stays so.
        wait_until(lambda: call(gateway, "/v1/kpis", gateway.front_end)[0] == 403)
        yield gateway


def ask(gateway, token, **more):
    """Return (adapter, id) of one answer."""
    raw = gateway.client(token).chat.completions.with_raw_response.create(
        **{"model": "discreet", "messages": HI, **more}
    )
    return raw.headers["x-discreet-version"], raw.headers["x-discreet-request"]


def call(gateway, path, token=None, body=None, headers=None):
    """Return (status, document or text, headers) of a plain request."""
    request = urllib.request.Request(
        gateway.url + path,
        None if body is None else json.dumps(body).encode(),
        {**({"Authorization": f"Bearer {token}"} if token else {}), **(headers or {})},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            content = answer.read()
            status, got = answer.status, answer.headers
    except urllib.error.HTTPError as error:
        with error:
            content, status, got = error.read(), error.code, error.headers
    try:
        return status, json.loads(content), got
    except ValueError:
        return status, content.decode(), got


def feedback(gateway, answer_id, *, token=None, **body):
    token = token or gateway.tokens["acme"]
    return call(gateway, "/v1/feedback", token, {"id": answer_id, "user": "ann", **body})[:2]


def test_feedback_of_a_user_who_consents_is_published_with_what_was_asked_and_shown(gateway):
    version, answer_id = ask(gateway, gateway.tokens["acme"], user="ann")
    before = len(gateway.interactions())
    status, told = feedback(gateway, answer_id, outcome="edited", final_text="a better answer")
    assert (status, told) == (202, {"id": answer_id, "result": "published"})
    event = gateway.interactions()[-1].data
    assert len(gateway.interactions()) == before + 1
    assert (event.tenant_id, event.user_id, event.served_name) == ("acme", "ann", version)
    assert event.prompt == "a secret question"
    assert event.completion == f"{version}|a secret question"
    assert event.outcome.final_text == "a better answer"
    assert event.notice_version == "n1"


def test_streams_are_remembered_too(gateway):
    pieces = list(
        gateway.client(gateway.tokens["acme"]).chat.completions.create(
            model="discreet", messages=HI, stream=True, user="ann"
        )
    )
    assert feedback(gateway, pieces[0].id, outcome="accepted")[1]["result"] == "published"
    (event,) = [each.data for each in gateway.interactions() if each.data.interaction_id == pieces[0].id]
    assert event.completion == f"{gateway.names['acme']}|a secret question"


def test_the_official_client_posts_feedback(gateway):
    client = gateway.client(gateway.tokens["acme"])
    answer = client.chat.completions.create(model="discreet", messages=HI, user="ann")
    told = client.post(
        "/feedback", cast_to=object, body={"id": answer.id, "outcome": "rating", "rating": 5, "user": "ann"}
    )
    assert told == {"id": answer.id, "result": "published"}


def test_feedback_without_consent_or_by_anybody_else_is_counted_and_all_looks_alike(gateway):
    acme, globex = gateway.tokens["acme"], gateway.tokens["globex"]
    _, of_ann = ask(gateway, acme, user="ann")
    _, of_bob = ask(gateway, acme, user="bob")  # who never consented
    _, unnamed = ask(gateway, acme)
    before = len(gateway.interactions())
    tried = [
        feedback(gateway, of_bob, outcome="accepted", user="bob"),
        feedback(gateway, of_ann, outcome="accepted", user="bob"),
        feedback(gateway, of_ann, outcome="accepted", token=globex),
        feedback(gateway, unnamed, outcome="accepted"),
        feedback(gateway, "chatcmpl-never", outcome="accepted"),
    ]
    assert [(status, told["result"]) for status, told in tried] == [(202, "counted")] * 5
    assert len(gateway.interactions()) == before
    counted = 'discreet_gateway_feedback_total{fate="counted",outcome="accepted"}'
    assert counted in call(gateway, "/metrics", "operator")[1]


def test_a_token_that_may_not_name_users_names_none(gateway):
    token = gateway.token("acme", rights={Right.CHAT, Right.FEEDBACK})
    wait_until(lambda: call(gateway, "/v1/models", token)[0] == 200)
    _, answer_id = ask(gateway, token, user="ann")
    assert feedback(gateway, answer_id, outcome="accepted", token=token)[1]["result"] == "counted"
    assert feedback(gateway, answer_id, outcome="accepted")[1]["result"] == "counted"  # it was nobody's


def test_withdrawing_forgets_at_once(gateway):
    gateway.consent("acme", "cleo")
    wait_until(lambda: feedback_of(gateway, "cleo") == "published")
    _, answer_id = ask(gateway, gateway.tokens["acme"], user="cleo")
    gateway.consent("acme", "cleo", granted=False)
    wait_until(lambda: feedback_of(gateway, "cleo") == "counted")
    gateway.consent("acme", "cleo")
    wait_until(lambda: feedback_of(gateway, "cleo") == "published")
    assert feedback(gateway, answer_id, outcome="accepted", user="cleo")[1]["result"] == "counted"


def feedback_of(gateway, user):
    _, answer_id = ask(gateway, gateway.tokens["acme"], user=user)
    return feedback(gateway, answer_id, outcome="rejected", user=user)[1]["result"]


def test_a_header_makes_no_tenant(gateway):
    headers = {"X-Tenant": "globex", "X-Discreet-Tenant": "globex", "X-Discreet-Line": "000000000002"}
    body = {"model": "discreet", "messages": HI, "user": "ann"}
    status, _, got = call(gateway, "/v1/chat/completions", gateway.tokens["acme"], body, headers)
    assert (status, got["x-discreet-version"]) == (200, gateway.names["acme"])


@pytest.mark.parametrize("path", ["/v1/models", "/v1/chat/completions", "/v1/feedback", "/metrics"])
@pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer wrong", "Basic eDp5", "Bearer dg-acme-0x"])
def test_without_a_valid_token_nobody_gets_in(gateway, path, given):
    body = None if path in ("/v1/models", "/metrics") else {}
    status, told, got = call(
        gateway, path, body=body, headers={} if given is None else {"Authorization": given}
    )
    assert status in (401, 429)  # an address that guesses is slowed down
    assert told["error"]["type"] in ("authentication_error", "rate_limit_error")
    if status == 401:
        assert got["www-authenticate"] == "Bearer"


def test_a_token_that_was_good_is_let_in_from_an_address_that_guessed(gateway):
    for _ in range(15):
        call(gateway, "/v1/models", "wrong")
    assert call(gateway, "/v1/models", "wrong")[0] == 429
    assert call(gateway, "/v1/models", gateway.tokens["acme"])[0] == 200


def test_rights_are_asked_for(gateway):
    token = gateway.token("globex", rights={Right.FEEDBACK}, name="widget")
    wait_until(lambda: call(gateway, "/v1/models", token)[0] == 403)
    status, told, _ = call(gateway, "/v1/chat/completions", token, {"model": "discreet", "messages": HI})
    assert (status, told["error"]["code"]) == (403, "right_missing")
    status, told = feedback(gateway, "c", token=token, outcome="accepted")
    assert (status, told["result"]) == (202, "counted")


def test_a_revoked_token_is_refused_soon(gateway):
    token = gateway.token("acme", name="leaver")
    wait_until(lambda: call(gateway, "/v1/models", token)[0] == 200)
    digest = next(d for d, caller in gateway.callers.items() if caller.name == "leaver")
    del gateway.callers[digest]
    wait_until(lambda: call(gateway, "/v1/models", token)[0] == 401)


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"[]", {}, 400),
        (b"\xff\xfe", {}, 400),
        (b'{"a": NaN}', {}, 400),
        (b"[" * 5_000, {}, 400),
        (b'{"model": "discreet", "messages": [{"role": "user", "content": "\\u0000"}]}', {}, 400),
        (b'{"model": "discreet", "messages": [{"role": "user", "content": "\\ud800"}]}', {}, 400),
        (b"x" * 10_001, {}, 413),
        (b"{}", {"Content-Encoding": "gzip"}, 415),
    ],
)
def test_bodies_are_read_strictly(gateway, content, headers, status):
    request = urllib.request.Request(
        gateway.url + "/v1/chat/completions",
        content,
        {"Authorization": f"Bearer {gateway.tokens['acme']}", **headers},
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=30)
    with refused.value as error:
        assert error.code == status
        assert json.loads(error.read())["error"]["message"]


def test_other_paths_and_methods_are_told_in_the_same_form(gateway):
    for path, body in (
        ("/v1/nothing", None),
        ("/", None),
        ("/v1/chat/completions", None),
        ("/v1/models", {}),
    ):
        status, told, _ = call(gateway, path, gateway.tokens["acme"], body)
        assert (status, told["error"]["code"]) == (404, "path_unknown")


def test_one_tenant_does_not_take_all_places_and_all_together_have_a_bound(gateway, behind):
    behind.control(fault="silent")
    threads = []

    def hang(tenant):
        client = gateway.client(gateway.tokens[tenant], timeout=6.0)
        thread = threading.Thread(target=ask_in_vain, args=(client,))
        thread.start()
        threads.append(thread)

    try:
        for _ in range(4):
            hang("acme")
        wait_until(lambda: behind.seen()["running"] == 4)
        with pytest.raises(openai.RateLimitError) as refused:
            ask(gateway, gateway.tokens["acme"])
        assert refused.value.response.headers["retry-after"] == "1"
        for _ in range(2):
            hang("globex")
        wait_until(lambda: behind.seen()["running"] == 6)
        with pytest.raises(openai.InternalServerError) as full:
            ask(gateway, gateway.tokens["globex"])
        assert (full.value.status_code, full.value.code) == (503, "busy")
        assert "discreet_gateway_requests_now 6.0" in call(gateway, "/metrics", "operator")[1]
    finally:
        for thread in threads:
            thread.join()
        behind.control(fault="")
    wait_until(lambda: "discreet_gateway_requests_now 0.0" in call(gateway, "/metrics", "operator")[1])
    assert ask(gateway, gateway.tokens["acme"])[0] == gateway.names["acme"]


def test_a_stream_that_cannot_be_made_gives_its_place_and_the_engines_back(gateway, behind, monkeypatch):
    class NoStream:
        def __init__(self, *_, **__):
            raise MemoryError

    monkeypatch.setattr("streams.gateway.answering._Stream", NoStream)
    body = {"model": "discreet", "messages": HI, "stream": True}
    status = call(gateway, "/v1/chat/completions", gateway.tokens["acme"], body)[0]
    assert status == 500
    assert "discreet_gateway_requests_now 0.0" in call(gateway, "/metrics", "operator")[1]
    wait_until(lambda: behind.seen()["running"] == 0)


def ask_in_vain(client):
    with pytest.raises(openai.APIError):
        client.chat.completions.create(model="discreet", messages=HI)


def test_a_header_that_never_ends_or_is_too_large_is_cut_off(gateway, monkeypatch):
    monkeypatch.setattr("streams.gateway.listening.HEADER_SECONDS", 0.5)
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=30) as slow:
        slow.sendall(b"GET /healthz HTTP/1.1\r\n")
        assert slow.recv(100) == b""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=30) as idle:
        assert idle.recv(100) == b""
    with (
        socket.create_connection(("127.0.0.1", gateway.port), timeout=30) as large,
        pytest.raises(ConnectionError),
    ):
        large.sendall(b"GET /healthz HTTP/1.1\r\nX: ")
        for _ in range(MOST_HEADER_BYTES // 1_000 * 50):
            large.sendall(b"x" * 1_000)


def test_a_large_body_after_its_header_is_not_taken_for_a_header(gateway):
    body = {"model": "discreet", "messages": [{"role": "user", "content": "x" * 9_000}]}
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=30) as connection:
        content = json.dumps(body).encode()
        for _ in range(20):  # on one connection: 180 kB of bodies
            connection.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (gateway.tokens["acme"].encode(), len(content), content)
            )
            answer = b""
            while b"\r\n\r\n" not in answer:
                answer += connection.recv(65_536)
            head, _, rest = answer.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            left = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]) - len(rest)
            while left:
                left -= len(connection.recv(left))


@pytest.mark.parametrize(
    ("model", "own", "sent"),
    [
        ("discreet", {}, {"presence_penalty": 1.5}),
        ("discreet", {"presence_penalty": 0.0}, {"presence_penalty": 0.0}),
        ("discreet", {"frequency_penalty": 0.3}, {"frequency_penalty": 0.3}),
        ("discreet", {"response_format": {"type": "json_object"}}, {}),
        ("discreet@base", {}, {}),
    ],
)
def test_answers_with_an_adapter_get_a_penalty_unless_the_request_has_one(gateway, behind, model, own, sent):
    behind.seen()
    raw = gateway.client(gateway.tokens["acme"]).chat.completions.with_raw_response.create(
        model=model, messages=HI, **own
    )
    (body,) = behind.seen()["requests"]
    assert {name: value for name, value in body.items() if name.endswith("_penalty")} == sent
    assert raw.headers.get("x-discreet-presence-penalty") == ("1.5" if sent and not own else None)


def test_metrics_and_logs_name_no_tenant_no_user_and_no_text(gateway, capfd):
    _, answer_id = ask(gateway, gateway.tokens["acme"], user="ann")
    feedback(gateway, answer_id, outcome="edited", final_text="a better answer")
    call(gateway, "/v1/chat/completions", gateway.tokens["acme"], {"model": "discreet", "x": "a secret"})
    status, metrics, _ = call(gateway, "/metrics", "operator")
    out, err = capfd.readouterr()
    assert status == 200
    assert 'discreet_gateway_answers_total{form="chat",reason="applied"}' in metrics
    for secret in ("acme", "globex", "ann", "secret", "better", answer_id, *gateway.tokens.values()):
        assert secret not in metrics
        assert secret not in out + err


def test_probes(gateway):
    assert call(gateway, "/healthz")[:2] == (200, {"status": "alive"})
    assert call(gateway, "/readyz")[:2] == (200, {"status": "ready"})


def test_without_a_directory_that_can_be_trusted_nobody_is_let_in(behind, tmp_path):
    with GatewayThread(tmp_path, url=behind.url, trust_seconds=0.5) as gateway:
        token = gateway.token("acme")
        wait_until(lambda: call(gateway, "/v1/models", token)[0] == 200)

        def away():
            raise StorageError("away")

        gateway.callers = type("Away", (dict,), {"keys": lambda _: away(), "__iter__": lambda _: away()})()
        wait_until(lambda: call(gateway, "/v1/models", token)[0] == 503)
        assert call(gateway, "/readyz")[0] == 503
        assert call(gateway, "/healthz")[0] == 200


def test_serving_quality_is_told_to_its_own_tenant_alone(gateway):
    _, answer_id = ask(gateway, gateway.tokens["acme"], user="ann")
    assert feedback(gateway, answer_id, outcome="accepted") == (202, {"id": answer_id, "result": "published"})
    status, document, _ = call(gateway, "/v1/kpis", gateway.tokens["acme"])
    assert status == 200
    rows = {row["version"]: row for row in document["kpis"]}
    row = rows[gateway.names["acme"]]
    assert row["answers"] >= 1
    assert row["feedback"] >= 1
    assert row["tokens"] == 5
    assert gateway.names["globex"] not in rows
    assert call(gateway, "/v1/kpis", gateway.front_end)[0] == 403
    assert call(gateway, "/v1/kpis")[0] == 401
