"""A tenant with several lines has its requests routed by their prompts; one with one line, or without routes, never."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from personalization.rollouts.values import Flag
from streams.client.routing import Level, RouteReason, RouterSettings
from streams.errors import SettingsError
from streams.gateway.answers import ROUTE_HEADERS
from streams.gateway.desired import Line, Version
from streams.gateway.routed import DomainRouting, prototypes_of, read_routes
from tests.fakes.tiny_models import style_card

ROWS = [
    json.loads(row)
    for row in (Path(__file__).parents[3] / "data" / "routing.jsonl").read_text("utf-8").splitlines()
]
DOMAINS = ("legal", "finance", "operations")
WRITTEN = [
    {"tenant": "*", "domain": row["domain"], "prompt": row["prompt"]}
    for row in ROWS
    if row["part"] == "known"
]
LINES = {name: f"ref-{name}" for name in (*DOMAINS, "default")}
AWAY = "How do I bake bread without yeast?"


def served(ref, **changes):
    return Line(line_ref=ref, adapter=Version(served_name=f"a-{ref}", **changes))


class Asked:
    """A gateway's routing with what its tenants' lines serve."""

    def __init__(self, written=WRITTEN):
        self.noted = []
        self.serves = {ref: served(ref) for ref in LINES.values()}
        self.missing = set()
        prototypes = None if written is None else prototypes_of(written)
        self.routing = DomainRouting(prototypes, RouterSettings(), lambda *told: self.noted.append(told))

    def __call__(self, prompt, lines=LINES):
        return self.routing.route(
            "acme",
            lines,
            prompt,
            line=lambda _, ref: self.serves.get(ref),
            loaded=lambda name: name not in self.missing,
        )


def test_requests_get_the_line_they_are_about_and_the_default_line_where_none_fits():
    ask = Asked()
    told = [(row["domain"], ask(row["prompt"]).domain) for row in ROWS if row["part"] == "asked"]
    inside = [got == wanted for wanted, got in told if wanted is not None]
    outside = [got == "default" for wanted, got in told if wanted is None]
    assert sum(inside) / len(inside) >= 0.95
    assert sum(outside) / len(outside) >= 0.95
    assert ask(AWAY).route.level is Level.TENANT
    assert ask.noted[-1] == ("tenant", "below_floor")


def test_a_tenants_default_line_may_be_the_shared_start_or_nothing():
    ask = Asked()
    ask.serves[LINES["default"]] = served(LINES["default"], meta=True)
    assert ask(AWAY).route.level is Level.META
    ask.serves[LINES["default"]] = Line(line_ref=LINES["default"], adapter=None)
    assert (ask(AWAY).route.level, ask(AWAY).domain) == (Level.BASE, "default")


def test_a_line_that_cannot_be_had_is_not_chosen_and_a_new_version_is_known_at_once():
    ask, prompt = Asked(), "Draft a clause for the contract."
    assert ask(prompt).domain == "legal"
    ask.missing.add("a-ref-legal")
    assert ask(prompt).domain != "legal"
    ask.missing.clear()
    ask.serves[LINES["legal"]] = replace(served("ref-legal"), flag=Flag.OFF)
    assert ask(prompt).domain != "legal"
    ask.serves[LINES["legal"]] = Line(line_ref="ref-legal", adapter=Version(served_name="a-next"))
    assert (ask(prompt).domain, ask(prompt).route.served_name) == ("legal", "a-next")


def test_routing_is_off_without_routes_with_one_line_and_without_one_prompt():
    assert Asked(None)("Draft a clause for the contract.") is None
    ask = Asked()
    assert ask("Draft a clause for the contract.", {"legal": LINES["legal"]}) is None
    assert ask(None) is None
    assert Asked([])("Draft a clause for the contract.") is None
    assert ask.noted == []


def test_a_domain_without_written_prompts_is_known_by_its_card():
    ask = Asked([row for row in WRITTEN if row["domain"] != "legal"])
    card = orjson.dumps(style_card().to_document())
    ask.serves[LINES["legal"]] = served(LINES["legal"], card=card)
    refs = {one.line_ref for one in ask(AWAY).route.candidates}
    assert refs == {LINES[name] for name in DOMAINS}
    ask.serves[LINES["legal"]] = served("other", card=b'{"format": "unknown"}')
    assert len(ask(AWAY).route.candidates) == 2


def test_the_headers_explain_a_decision_and_tell_nothing_of_the_prompt():
    routed = Asked()("Which court has jurisdiction over the dispute about this lease?")
    told = routed.headers()
    assert tuple(told) == ROUTE_HEADERS
    assert told["x-discreet-route"] == "domain/legal"
    assert told["x-discreet-route-reason"] == RouteReason.FITS.value
    assert float(told["x-discreet-route-score"]) > 0.2
    assert float(told["x-discreet-route-margin"]) > 0.05
    assert "sha256:" in told["x-discreet-route-version"]
    assert not any(word in json.dumps(told) for word in ("court", "dispute", "lease"))
    one = Asked([row for row in WRITTEN if row["domain"] == "legal"])
    assert one(AWAY).headers()["x-discreet-route-margin"] == "none"


@pytest.mark.parametrize(
    "text",
    ["[", '{"tenant": "*", "domain": "legal"}', '["a"]', '{"tenant": "a", "domain": "b", "prompt": "c"}'],
)
def test_a_file_of_routes_that_cannot_be_used_is_refused(tmp_path, text):
    path = tmp_path / "routes.jsonl"
    path.write_text(text)
    with pytest.raises(SettingsError):
        read_routes(path)
    with pytest.raises(SettingsError):
        read_routes(tmp_path / "none.jsonl")


def test_a_composed_line_answers_and_feedback_counts_for_the_domain_that_fits_better():
    again = [{**row, "domain": "again"} for row in WRITTEN if row["domain"] == "legal"]
    ask = Asked([*(row for row in WRITTEN if row["domain"] == "legal"), *again])
    lines = {
        "legal": "ref-legal",
        "again": "ref-again",
        "again-and-legal": "ref-both",
        "default": "ref-default",
    }
    for ref in lines.values():
        ask.serves[ref] = served(ref)
    prompt = "Draft a clause for the contract."
    assert ask(prompt, lines).route.reason is RouteReason.TOO_CLOSE
    ask.serves["ref-both"] = Line(
        line_ref="ref-both", adapter=Version(served_name="a-both-v1", composed=True)
    )
    routed = ask(prompt, lines)
    assert (routed.serves, routed.route.served_name) == ("again-and-legal", "a-both-v1")
    assert routed.domain in {"legal", "again"}
    assert routed.headers()["x-discreet-route"] == "pair/again-and-legal"
    ask.missing.add("a-both-v1")
    away = ask(prompt, lines)
    assert (away.domain, away.serves, away.wanted.line_ref) == ("default", "default", "ref-both")
