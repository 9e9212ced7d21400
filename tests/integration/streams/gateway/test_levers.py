"""Every answer says of each lever whether it was used and why, and no word of the prompt with it."""

from __future__ import annotations

import pytest

from personalization.styles.families import Feature
from personalization.terms.values import TermList, TermPair, TermUse
from tests.fakes.engines import engine
from tests.fakes.gateways import GatewayThread, style, wait_until
from tests.fakes.styles import card_of, entry
from tests.integration.streams.gateway.test_prompts import CALM, ask, want

TERMS = TermList(use=TermUse.CORRECT, pairs=(TermPair(written="ack me", meant="Acme"),))
STYLE = {
    **style("Card: {{ prompt }}", pattern="a+"),
    "card": card_of(entry(Feature.STOP, ".", 0.9)).to_document(),
}


@pytest.fixture(scope="module")
def behind():
    with engine("vllm") as process:
        yield process


def levers(gateway, token, **more):
    headers, _ = ask(gateway, token, "my secret question", **more)
    told = headers["x-discreet-levers"]
    assert "secret" not in told
    return dict(one.split("=") for one in told.split(", "))


def test_each_lever_is_told_with_its_reason(behind, tmp_path):
    with GatewayThread(tmp_path, url=behind.url) as gateway:
        token = gateway.token("acme")
        assert levers(gateway, token) == {
            "adapter": "off;no_line",
            "template": "off;none",
            "memory": "off;none",
            "terms": "off;none",
            "constraint": "off;none",
        }
        name = gateway.publish("acme", style=STYLE)
        behind.control(names=[name])
        want(gateway, CALM)
        gateway.terms = {gateway.line("acme").line_ref: TERMS}
        wait_until(lambda: levers(gateway, token)["adapter"] == "on;applied")
        wait_until(lambda: levers(gateway, token)["template"] == "on;operator")
        wait_until(lambda: levers(gateway, token)["terms"] == "on;correct")
        assert levers(gateway, token)["constraint"] == "off;no_answer_length"
        assert levers(gateway, token, max_tokens=8)["constraint"].startswith("on;")
        raw = gateway.client(token).chat.completions.with_raw_response.create(
            model="discreet", messages=[{"role": "user", "content": "x"}], stream=True
        )
        assert "terms=on;correct" in raw.headers["x-discreet-levers"]
        assert levers(gateway, token, logprobs=True)["terms"] == "off;not_plain"
        behind.control(names=[])
        gateway.prompts = {}
        wait_until(lambda: levers(gateway, token)["template"] == "on;card")
        asked = gateway.client(token).chat.completions.with_raw_response.create(
            model="discreet@base", messages=[{"role": "user", "content": "x"}]
        )
        told = asked.headers["x-discreet-levers"]
        assert told.count("off;asked_for_base") == 5, told
        other = gateway.client(token).chat.completions.with_raw_response.create(
            model="discreet",
            messages=[{"role": "user", "content": "x"}],
            response_format={"type": "json_object"},
        )
        told = other.headers["x-discreet-levers"]
        assert "template=off;not_plain" in told
        assert "terms=off;not_plain" in told
        assert "memory=off;not_plain" in told
