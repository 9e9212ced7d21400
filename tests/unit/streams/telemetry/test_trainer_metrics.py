"""What a trainer counts, whether it is alive, and that it passes on what it hears."""

from types import SimpleNamespace

from prometheus_client.parser import text_string_to_metric_families

from personalization.releases.observer import TrainerObserver
from personalization.releases.protocol import Closed
from personalization.rounds.states import OutcomeCode
from streams.telemetry.trainer_metrics import TrainerMetrics


class Listener(TrainerObserver):
    def __init__(self):
        self.heard = []

    def turned(self):
        self.heard.append("turned")

    def leased(self, leases):
        self.heard.append("leased")

    def progress(self, prepared, progress):
        self.heard.append("progress")

    def trained(self, seconds, *, succeeded):
        self.heard.append("trained")

    def closed(self, lease, outcome):
        self.heard.append("closed")

    def given_up(self, lease):
        self.heard.append("given_up")


def samples(metrics):
    families = text_string_to_metric_families(metrics.exposition().decode())
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


def test_rounds_jobs_refusals_and_lost_leases_are_counted_and_passed_on():
    listener = Listener()
    metrics = TrainerMetrics(listener, stall_seconds=60.0)
    metrics.turned()
    metrics.leased([1, 2, 3])
    metrics.progress([], None)
    metrics.trained(2.0, succeeded=True)
    metrics.trained(2.0, succeeded=False)
    metrics.closed(None, SimpleNamespace())  # a version: it was published
    metrics.closed(None, Closed(code=OutcomeCode.BUDGET_EXHAUSTED, reason="r"))
    metrics.closed(None, Closed(code=OutcomeCode.TRAINING_FAILED, reason="r"))
    metrics.given_up(None)
    found = samples(metrics)
    assert found[("discreet_rounds_leased_total",)] == 3
    assert found["discreet_rounds_closed_total", "published"] == 1
    assert found["discreet_rounds_closed_total", "budget_exhausted"] == 1
    assert found["discreet_rounds_closed_total", "training_failed"] == 1
    assert found[("discreet_budget_refusals_total",)] == 1
    assert found[("discreet_leases_lost_total",)] == 1
    assert found["discreet_job_seconds_count", "succeeded"] == 1
    assert found["discreet_job_seconds_count", "failed"] == 1
    jobs = ["turned", "leased", "progress", "trained", "trained"]
    assert listener.heard == [*jobs, "closed", "closed", "closed", "given_up"]


def test_a_trainer_is_alive_while_it_is_heard_of():
    now = [0.0]
    metrics = TrainerMetrics(stall_seconds=60.0, monotonic=lambda: now[0])
    now[0] = 60.0
    assert metrics.alive
    now[0] = 61.0
    assert not metrics.alive
    assert samples(metrics)[("discreet_trainer_silent_seconds",)] == 61.0
    metrics.progress([], None)
    assert metrics.alive


def test_failures_beside_the_rounds_are_counted_like_a_workers():
    metrics = TrainerMetrics(stall_seconds=60.0)
    metrics.chore_failed("rollouts")
    assert samples(metrics)["discreet_chore_failures_total", "rollouts"] == 1


def test_choices_among_templates_are_counted_by_how_they_ended_and_passed_on():
    listener = Listener()
    listener.choice_ended = listener.heard.append
    metrics = TrainerMetrics(listener, stall_seconds=60.0)
    for outcome in ("chosen", "forfeited", "chosen"):
        metrics.choice_ended(outcome)
    found = samples(metrics)
    assert found["discreet_prompt_choices_total", "chosen"] == 2
    assert found["discreet_prompt_choices_total", "forfeited"] == 1
    assert listener.heard == ["chosen", "forfeited", "chosen"]
