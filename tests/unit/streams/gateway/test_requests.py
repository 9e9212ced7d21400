"""What a body asks, which parameters are let through, and which texts may be touched."""

from __future__ import annotations

import pytest

from streams.errors import GatewayError
from streams.gateway.requests import Form, domain_of, read_ask

HI = [{"role": "user", "content": "hi"}]


def chat(**body):
    return read_ask(Form.CHAT, {"model": "m", "messages": HI, **body}, model="m")


@pytest.mark.parametrize(
    "name",
    ["lora", "id_slot", "slot_id", "cache_salt", "lora_path", "lora_request", "adapter_id", "cache_prompt",
     "kv_transfer_params", "vllm_xargs", "priority", "add_special_tokens", "chat_template", "structured_outputs"],
)  # fmt: skip
def test_no_client_names_an_adapter_a_slot_or_a_cache(name):
    with pytest.raises(GatewayError, match=name) as refused:
        chat(**{name: 1})
    assert (refused.value.status, refused.value.param) == (400, name)


def test_parameters_of_the_api_go_through_as_they_are():
    given = {
        "temperature": 0.3,
        "tools": [{"type": "function"}],
        "seed": 7,
        "stop": ["x"],
        "top_k": 4,
        "n": 2,
    }
    ask = chat(**given)
    assert {name: ask.document[name] for name in given} == given


def test_who_asks_does_not_reach_the_engine():
    ask = chat(user="ann", safety_identifier="a", metadata={"who": "ann"})
    assert ask.user == "ann"
    assert not {"user", "safety_identifier", "metadata"} & set(ask.document)


@pytest.mark.parametrize(
    ("asked", "domain"), [("m", "default"), ("m/legal", "legal"), ("m@base", None), ("org/m/legal", "legal")]
)
def test_names_of_models(asked, domain):
    assert domain_of(asked, asked.split("/legal")[0].removesuffix("@base")) == domain


@pytest.mark.parametrize("asked", ["", "a-000000000001-v1", "gpt-4", "m/", "m/x@base", "M", "m@base/x"])
def test_another_name_is_no_model(asked):
    if asked == "m/x@base":
        assert domain_of(asked, "m") == "x@base"  # a domain of nobody, see the gateway
        return
    with pytest.raises(GatewayError) as refused:
        domain_of(asked, "m")
    assert (refused.value.status, refused.value.word) == (404, "model_not_found")


@pytest.mark.parametrize(
    "body",
    [
        [],
        {"messages": HI},
        {"model": 3, "messages": HI},
        {"model": "m"},
        {"model": "m", "messages": []},
        {"model": "m", "messages": "hi"},
        {"model": "m", "messages": [{"content": "x"}]},
        {"model": "m", "messages": HI, "stream": "yes"},
        {"model": "m", "messages": HI, "stream_options": [1]},
    ],
)
def test_what_is_no_request_is_refused(body):
    with pytest.raises(GatewayError) as refused:
        read_ask(Form.CHAT, body, model="m")
    assert refused.value.status == 400


def test_the_last_message_of_a_user_is_the_prompt():
    ask = chat(messages=[{"role": "system", "content": "be brief"}, *HI])
    assert ask.prompt == "hi"
    changed = ask.with_prompt("well: hi")
    assert changed["messages"][-1] == {"role": "user", "content": "well: hi"}
    assert changed["messages"][0]["content"] == "be brief"
    assert chat(messages=[{"role": "user", "content": [{"type": "text", "text": "hi"}]}]).prompt == "hi"


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [*HI, {"role": "assistant", "content": "so"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        {"messages": [{"role": "tool", "content": "x"}, *HI]},
        {"messages": [{"role": "assistant", "content": "x", "tool_calls": [{}]}, *HI]},
        {"tools": [{"type": "function"}]},
        {"response_format": {"type": "json_object"}},
        {"n": 2},
    ],
)
def test_tools_images_and_forms_of_their_own_are_left_alone(body):
    assert chat(**body).prompt is None


def test_completions():
    ask = read_ask(Form.COMPLETIONS, {"model": "m", "prompt": "hi", "max_tokens": 4}, model="m")
    assert (ask.prompt, ask.bounded) == ("hi", True)
    assert ask.with_prompt("x")["prompt"] == "x"
    assert read_ask(Form.COMPLETIONS, {"model": "m", "prompt": ["a", "b"]}, model="m").prompt is None
    assert read_ask(Form.COMPLETIONS, {"model": "m", "prompt": "a", "echo": True}, model="m").prompt is None
