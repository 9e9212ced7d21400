"""What the gateway asks of vLLM."""

from __future__ import annotations

import pytest

from streams.errors import GatewayError
from streams.gateway.requests import Form
from streams.gateway.upstreams import Call, Timeouts
from streams.gateway.vllm_server import VllmUpstream

UPSTREAM = VllmUpstream(url="http://127.0.0.1:9", token="", model="base", timeouts=Timeouts())


def body(**document):
    call = Call(form=Form.COMPLETIONS, document={"prompt": "a", **document}, adapter="a-x-v1", tenant="acme")
    return UPSTREAM.body(call, stream=False)


@pytest.mark.parametrize("logprobs", [0, 5])
def test_nobody_may_ask_for_what_ends_the_engine(logprobs):
    with pytest.raises(GatewayError) as refused:
        body(echo=True, logprobs=logprobs)
    assert refused.value.status == 400


@pytest.mark.parametrize("document", [{"echo": True}, {"logprobs": 5}, {"echo": False, "logprobs": 5}])
def test_either_alone_is_asked(document):
    assert body(**document)["model"] == "a-x-v1"


def test_caches_are_told_apart_by_tenant():
    other = Call(form=Form.COMPLETIONS, document={"prompt": "a"}, adapter="a-x-v1", tenant="globex")
    assert body()["cache_salt"] != UPSTREAM.body(other, stream=False)["cache_salt"]
