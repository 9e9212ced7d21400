"""A server's token reaches its own adapter lines and no other; what it does not reach looks as if it did not exist."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import pytest

from streams.errors import SettingsError
from streams.serving.holder import Holdings
from streams.serving.tokens import server_tokens
from streams.serving.web import ServingWeb

ALL, ACME, BOTH = "operator-token-00", "acme-token-000000", "both-token-000000"
SCOPED = f"{ACME}=aaaaaaaaaaaa; {BOTH}=aaaaaaaaaaaa, bbbbbbbbbbbb"


class Host:
    def answers(self, prompts, *, name, max_new_tokens, favour=()):
        return [f"{name}: {prompt}" for prompt in prompts]

    def losses(self, pairs, *, name):
        return [1.0 for _ in pairs]


@pytest.fixture
def web():
    holdings = Holdings(
        current={"aaaaaaaaaaaa": "a-aaaaaaaaaaaa-v2", "bbbbbbbbbbbb": "a-bbbbbbbbbbbb-v1"},
        failures={"a-bbbbbbbbbbbb-v2": "client.adapter.bad"},
        lines={
            "a-aaaaaaaaaaaa-v1": "aaaaaaaaaaaa", "a-aaaaaaaaaaaa-v2": "aaaaaaaaaaaa",
            "a-bbbbbbbbbbbb-v1": "bbbbbbbbbbbb",
        },
    )  # fmt: skip
    with ServingWeb(port=0, token=server_tokens(ALL, SCOPED), host=Host(), holdings=holdings) as web:
        yield web


def ask(web, path, token, body=None):
    request = urllib.request.Request(
        f"http://127.0.0.1:{web.port}{path}", None if body is None else json.dumps(body).encode()
    )
    request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@pytest.mark.parametrize(
    ("token", "model", "status"),
    [
        (ACME, "a-aaaaaaaaaaaa-v2", 200), (ACME, "a-aaaaaaaaaaaa-v1", 200), (ACME, None, 200),
        (ACME, "a-bbbbbbbbbbbb-v1", 404), (ACME, "a-cccccccccccc-v1", 404), (BOTH, "a-bbbbbbbbbbbb-v1", 200),
        (ALL, "a-bbbbbbbbbbbb-v1", 200), ("acme-token-000001", "a-aaaaaaaaaaaa-v2", 401), ("", None, 401),
    ],
)  # fmt: skip
def test_a_token_is_answered_by_its_own_lines_alone(web, token, model, status):
    for path, body in (
        ("/v1/answers", {"prompt": "hi", "model": model}),
        ("/v1/losses", {"pairs": [["a", "b"]], "model": model}),
    ):
        assert ask(web, path, token, body)[0] == status


def test_anothers_line_looks_like_one_that_does_not_exist(web):
    body = {"prompt": "hi"}
    others = ask(web, "/v1/answers", ACME, {**body, "model": "a-bbbbbbbbbbbb-v1"})
    assert others == ask(web, "/v1/answers", ACME, {**body, "model": "a-no-such-line-v1"})


def test_a_token_is_shown_its_own_lines_alone(web):
    mine = ask(web, "/v1/adapters", ACME)
    assert mine == (200, {"adapters": {"aaaaaaaaaaaa": "a-aaaaaaaaaaaa-v2"}, "failures": {}})
    status, everything = ask(web, "/v1/adapters", ALL)
    assert (status, len(everything["adapters"]), len(everything["failures"])) == (200, 2, 1)


@pytest.mark.parametrize(
    ("everything", "scoped", "says"),
    [
        (None, None, "no token"), (None, " ; ", "no token"), (None, "short=a", "entry 1"),
        (None, f"{ACME}", "entry 1"), (None, f"{ACME}=", "entry 1"), (None, f"{ACME}=a;{BOTH}=A B", "entry 2"),
        (None, f"{ACME}=a;{ACME}=b", "twice"), (ALL, f"{ALL}=a", "twice"),
    ],
)  # fmt: skip
def test_tokens_that_are_not_usable_are_refused_without_showing_them(everything, scoped, says):
    with pytest.raises(SettingsError, match=says) as caught:
        server_tokens(everything, scoped)
    assert "token-0" not in str(caught.value)


def test_the_tokens_themselves_are_nowhere_in_the_value():
    tokens = server_tokens(ALL, SCOPED)
    assert ALL not in repr(tokens)
    assert tokens.scope_of(f"Basic {ALL}") is None
    assert tokens.scope_of(f"bearer {ACME}").lines == {"aaaaaaaaaaaa"}
