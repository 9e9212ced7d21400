"""A trainer is heard of while it waits for votes on templates, so that no probe ends it in the middle of them."""

from __future__ import annotations

from unittest.mock import MagicMock

from personalization.choices import tick as tick_module
from personalization.choices.values import ChoiceOutcome
from personalization.errors import TrainingFailedError
from personalization.planning.plan import PerformanceFlags
from streams.processes import trainer
from streams.telemetry.trainer_metrics import TrainerMetrics


def test_a_trainer_that_waits_for_votes_is_alive_and_its_failures_are_counted(monkeypatch):
    for name in ("PromptChoices", "Ledger", "StoredSignals", "adapter_signer", "trusted_keys"):
        monkeypatch.setattr(trainer, name, MagicMock())
    now = [0.0]
    metrics = TrainerMetrics(stall_seconds=900.0, monotonic=lambda: now[0])
    tick = trainer._choices(MagicMock(), MagicMock(), PerformanceFlags(device="cpu", threads=1), metrics)
    now[0] = 1_000.0
    assert not metrics.alive

    def take(_lease, *, stop):
        assert not stop()
        assert metrics.alive
        raise TrainingFailedError("planted")

    tick._choices.take.side_effect = take
    monkeypatch.setattr(tick_module, "transaction", MagicMock())
    monkeypatch.setattr(tick_module, "lease_choice", MagicMock())
    tick._choices.forfeit.return_value = ChoiceOutcome.FORFEITED
    tick.run()
    assert b'discreet_chore_failures_total{chore="prompt_choices"} 1.0' in metrics.exposition()
    assert b'discreet_prompt_choices_total{outcome="forfeited"} 1.0' in metrics.exposition()
