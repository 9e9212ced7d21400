"""What the official client of OpenAI's API sees through the gateway, in front of each kind of engine."""

from __future__ import annotations

import json
import urllib.request

import openai
import pytest

from tests.fakes.engines import engine
from tests.fakes.gateways import GatewayThread, style, wait_until

HI = [{"role": "user", "content": "hi there"}]
TEMPLATE = "Answers open nicely.\n\nPrompt: {{ prompt }}\nAnswer:"


@pytest.fixture(scope="module", params=["vllm", "llamacpp", "openai"])
def place(request, tmp_path_factory):
    """A gateway before one engine with one tenant and its first version."""
    with (
        engine(request.param) as behind,
        GatewayThread(tmp_path_factory.mktemp("lines"), engine=request.param, url=behind.url) as gateway,
    ):
        gateway.behind = behind
        gateway.acme = gateway.token("acme")
        gateway.name = gateway.publish(
            "acme", style=style(TEMPLATE, pattern="[^|]+", grammar="root ::= [^|]+\n")
        )
        gateway.applies = request.param != "openai"
        behind.control(names=[gateway.name, "a-000000000099-v1"] if gateway.applies else [])
        wanted = gateway.name if gateway.applies else "base"
        wait_until(lambda: asked(gateway).headers["x-discreet-version"] == wanted)
        if not gateway.applies:
            wait_until(lambda: asked(gateway).headers["x-discreet-reason"] == "no_adapters_here")
        behind.seen()
        yield gateway


def asked(gateway, **more):
    client = gateway.client(gateway.acme)
    return client.chat.completions.with_raw_response.create(**{"model": "discreet", "messages": HI, **more})


def expected(gateway, prompt="hi there"):
    """Return the text that the engine answers when the right thing was asked."""
    return (
        f"{gateway.name}|{prompt}" if gateway.applies else f"base|{TEMPLATE.replace('{{ prompt }}', prompt)}"
    )


def test_an_answer_in_one_piece_says_how_it_was_made(place):
    raw = asked(place)
    answer = raw.parse()
    assert answer.choices[0].message.content == expected(place)
    assert answer.choices[0].finish_reason == "stop"
    assert (answer.model, answer.object) == ("discreet", "chat.completion")
    assert answer.usage.total_tokens == 8
    assert answer.id == raw.headers["x-discreet-request"]
    assert answer.id.startswith("chatcmpl-")
    assert raw.headers["x-discreet-line"] == "000000000001"
    assert raw.headers["x-discreet-version"] == (place.name if place.applies else "base")
    assert raw.headers["x-discreet-reason"] == ("applied" if place.applies else "no_adapters_here")
    assert (raw.headers["x-discreet-template"] == "none") == place.applies


def test_a_stream_is_what_the_client_expects(place):
    with place.client(place.acme).chat.completions.with_streaming_response.create(
        model="discreet", messages=HI, stream=True
    ) as raw:
        assert raw.headers["x-discreet-version"] == (place.name if place.applies else "base")
        assert raw.headers["x-accel-buffering"] == "no"
        pieces = list(raw.parse())
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == expected(place)
    assert pieces[0].choices[0].delta.role == "assistant"
    assert [piece.choices[0].finish_reason for piece in pieces].count("stop") == 1
    assert {(piece.id, piece.model) for piece in pieces} == {(raw.headers["x-discreet-request"], "discreet")}
    assert all(piece.usage is None for piece in pieces)


def test_a_streams_usage_comes_in_a_piece_of_its_own_when_asked_for(place):
    pieces = list(
        place.client(place.acme).chat.completions.create(
            model="discreet", messages=HI, stream=True, stream_options={"include_usage": True}
        )
    )
    assert pieces[-1].choices == []
    assert pieces[-1].usage.total_tokens == 8


def test_a_stream_ends_with_done(place):
    body = json.dumps({"model": "discreet", "messages": HI, "stream": True}).encode()
    request = urllib.request.Request(
        f"{place.url}/v1/chat/completions", body, {"Authorization": f"Bearer {place.acme}"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.read().endswith(b"\n\ndata: [DONE]\n\n")


def test_completions(place):
    client = place.client(place.acme)
    answer = client.completions.create(model="discreet", prompt="hi there")
    assert answer.choices[0].text == expected(place)
    assert answer.id.startswith("cmpl-")
    pieces = client.completions.create(model="discreet", prompt="hi there", stream=True)
    assert "".join(piece.choices[0].text for piece in pieces) == expected(place)


def test_the_base_can_be_asked_for(place):
    raw = asked(place, model="discreet@base")
    assert raw.parse().choices[0].message.content == "base|hi there"
    assert raw.parse().model == "discreet@base"
    assert raw.headers["x-discreet-reason"] == "asked_for_base"


def test_models_are_those_of_the_token(place):
    place.line("acme", "legal")
    place.line("globex", "medical")
    wait_until(lambda: len(place.client(place.acme).models.list().data) == 3)
    names = [model.id for model in place.client(place.acme).models.list()]
    assert names == ["discreet", "discreet/legal", "discreet@base"]
    assert place.client(place.acme).models.retrieve("discreet/legal").id == "discreet/legal"
    with pytest.raises(openai.NotFoundError):
        place.client(place.acme).models.retrieve("discreet/medical")


@pytest.mark.parametrize("model", ["gpt-4", "a-000000000099-v1", "discreet/medical", "tiny-base", ""])
def test_no_other_model_can_be_asked(place, model):
    with pytest.raises(openai.NotFoundError) as refused:
        asked(place, model=model)
    assert refused.value.code == "model_not_found"


def test_tools_and_parameters_reach_the_engine_and_names_do_not(place):
    place.behind.seen()
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    asked(place, tools=tools, temperature=0.5, seed=4, user="ann", metadata={"who": "ann"})
    (seen,) = place.behind.seen()["requests"]
    assert (seen["tools"], seen["temperature"], seen["seed"]) == (tools, 0.5, 4)
    assert seen["messages"] == HI  # a request with tools keeps its own words
    assert "ann" not in json.dumps(seen)


def test_a_style_cards_constraint_goes_along_where_the_engine_takes_one(place):
    raw = asked(place, max_tokens=20)
    (seen,) = place.behind.seen()["requests"][-1:]
    said = raw.headers["x-discreet-constraint"]
    if place.behind.kind == "vllm":
        assert (said, seen["structured_outputs"]) == ("regex", {"regex": "[^|]+"})
    elif place.behind.kind == "llamacpp":
        assert (said, seen["grammar"]) == ("grammar", "root ::= [^|]+\n")
    else:
        assert said == "none"
    unbounded = asked(place)
    assert unbounded.headers["x-discreet-constraint"] == "none"


def test_no_client_can_name_an_adapter_to_the_engine(place):
    for extra in ({"lora": [{"id": 1, "scale": 1.0}]}, {"cache_salt": "x"}, {"id_slot": 0}):
        with pytest.raises(openai.BadRequestError) as refused:
            asked(place, extra_body=extra)
        assert refused.value.code == "unknown_parameter"


def test_errors_have_the_form_that_the_client_reads(place):
    with pytest.raises(openai.AuthenticationError) as refused:
        place.client("wrong").models.list()
    assert refused.value.code == "invalid_api_key"
    place.behind.control(fault="refuse")
    try:
        with pytest.raises(openai.BadRequestError) as refused:
            asked(place)
        assert refused.value.param == "temperature"
        assert place.name not in str(refused.value)
    finally:
        place.behind.control(fault="")


def test_an_engine_that_is_full_is_told_as_such_and_when_to_come_again(place):
    place.behind.control(fault="busy")
    try:
        with pytest.raises(openai.InternalServerError) as refused:
            asked(place)
        assert refused.value.status_code == 503
        assert refused.value.response.headers["retry-after"] == "7"
        assert refused.value.response.headers["x-discreet-reason"] == "engine_down"
    finally:
        place.behind.control(fault="")


@pytest.mark.parametrize("fault", ["break", "stop", "error"])
def test_a_stream_that_breaks_off_ends_with_an_error_that_the_client_raises(place, fault):
    place.behind.control(fault=fault)
    try:
        pieces = place.client(place.acme).chat.completions.create(model="discreet", messages=HI, stream=True)
        with pytest.raises(openai.APIError, match="broke off"):
            list(pieces)
    finally:
        place.behind.control(fault="")
