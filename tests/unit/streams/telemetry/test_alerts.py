"""The alert rules speak of metrics and labels that there are, and say what to do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

import streams.telemetry
from personalization.drift.values import ReadingOutcome
from personalization.memory.values import Outcome
from streams.client.routing import Lever
from streams.contracts.dead_letter import DeadLetterReason
from streams.contracts.topics import TOPICS
from streams.telemetry.gateway_metrics import GatewayMetrics
from streams.telemetry.metrics import WorkerMetrics
from streams.telemetry.trainer_metrics import TrainerMetrics

RULES = [
    rule
    for group in yaml.safe_load(Path(streams.telemetry.__file__).with_name("alerts.yaml").read_text("utf-8"))[
        "groups"
    ]
    for rule in group["rules"]
]
DURATION = re.compile(r"\d+[smhd]")
SELECTOR = re.compile(r"\b(discreet_\w+|up)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)\s*(?:=|!=|=~|!~)\s*"([^"]*)"')
VALUES = {
    "topic": {topic.name for topic in TOPICS},
    "reason": {reason.value for reason in DeadLetterReason},
    "outcome": {"effect", "duplicate", "dead_letter", "failed", "succeeded", *ReadingOutcome, *Outcome},
    "job": {"discreet.*"},
    "lever": {"over", *(lever.value for lever in Lever)},
}


def series():
    """Return the labels of each series that a worker, trainer or gateway shows once everything happened once."""
    worker, trainer, gateway = WorkerMetrics(), TrainerMetrics(stall_seconds=1.0), GatewayMetrics()
    found = {"up": {"job", "instance"}}
    for metrics in (worker, trainer, gateway):
        for collector in list(metrics._registry._collector_to_names):
            names = getattr(collector, "_labelnames", ())
            if names:
                collector.labels(*("x" for _ in names))
    for text in (one.exposition().decode() for one in (worker, trainer, gateway)):
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
    return found


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_asks_for_series_that_there_are_and_says_what_to_do(rule):
    known = series()
    asked = SELECTOR.findall(rule["expr"])
    assert asked
    for name, matchers in asked:
        assert name in known
        for label, value in MATCHER.findall(matchers):
            assert label in known[name]
            assert set(value.split("|")) <= VALUES[label]
    assert rule["expr"].count("(") == rule["expr"].count(")")
    assert DURATION.fullmatch(rule.get("for", "1m"))
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert set(rule["annotations"]) == {"summary", "action"}
    for label in re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]):
        assert any(label in known[name] for name, _ in asked) or label == "instance"


def test_what_a_rule_waits_for_in_a_trainer_is_there_before_it_first_happens():
    """``increase`` compares samples of a series: one that begins at 1 has not increased."""
    text = TrainerMetrics(stall_seconds=1.0).exposition().decode()
    begun = {
        (sample.name, sample.labels.get("outcome"))
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.value == 0
    }
    for name, outcomes in (
        ("discreet_prompt_choices_total", ["forfeited"]),
        (
            "discreet_drift_readings_total",
            ["budget_exhausted", "plan_used_up", "noise_too_large", "forfeited"],
        ),
        ("discreet_drift_alarms_total", [None]),
        ("discreet_budget_refusals_total", [None]),
    ):
        assert {(name, outcome) for outcome in outcomes} <= begun


def test_no_two_rules_have_one_name():
    names = [rule["alert"] for rule in RULES]
    assert len(names) == len(set(names)) > 10
