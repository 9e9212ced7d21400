"""What a line still knows of earlier windows: the arithmetic, and two whole releases with cards."""

from __future__ import annotations

import pytest
from safetensors.numpy import load_file

from personalization.adapters.factors import split_factors
from personalization.adapters.files import WEIGHTS
from personalization.planning.model_shape import read_shape
from personalization.planning.plan import PerformanceFlags
from personalization.planning.planner import PlannerSettings, propose
from personalization.quality.cards import CardReleases
from personalization.quality.continual import Window, facts_of, with_cards
from personalization.quality.options import benchmark_policy
from personalization.styles.families import Feature
from personalization.training.engine.loading import loaded_base
from personalization.training.jobs.job import Example, UserExamples
from tests.fakes.styles import vote
from tests.fakes.tiny_models import write_tiny_base


def test_what_is_lost_is_told_by_the_worst_window_and_by_the_mean_of_users():
    losses = [  # by release, window and user
        [[2.0, 2.0], [3.0, 3.0], [3.0, 3.0]],
        [[2.1, 2.1], [2.0, 2.0], [3.0, 3.0]],
        [[2.2, 2.2], [1.9, 1.9], [2.0, 2.0]],
    ]
    found = facts_of(losses, [4.0, 4.0, 5.5])
    assert found["earlier_windows_change"] == [pytest.approx(0.1), pytest.approx(-0.05)]
    assert (found["worst"], found["ok"]) == (pytest.approx(0.1), False)
    assert found["bwt"]["value"] == pytest.approx(-0.05)
    assert (found["base"], found["served"]) == (4.5, pytest.approx(6.1 / 3, abs=1e-4))
    kept = facts_of([[[2.0], [3.0]], [[2.01], [2.0]]], [4.0, 4.0])
    assert kept["ok"]


def users(opening):
    words = ("cache", "door", "plan", "index", "road")
    return tuple(
        UserExamples(
            examples=(Example(prompt=f"the {word} is slow", completion=f"{opening}: mend the {word}"),)
        )
        for word in words * 16
    )


@pytest.mark.slow
def test_of_a_line_that_remembers_both_parts_are_averaged_and_of_another_neither(tmp_path):
    base = write_tiny_base(tmp_path / "base", layers=2)
    flags = PerformanceFlags(device="cpu", threads=1)
    decoder, encoder = loaded_base(base, flags)
    policy = benchmark_policy(80, 16.0, 1)
    plan = propose(policy, read_shape(base), settings=PlannerSettings(max_tokens=24))
    made = []

    class Watched(CardReleases):
        def release(self, *given, **named):
            made.append(super().release(*given, **named))
            return made[-1]

    releases = Watched(
        decoder=decoder, encoder=encoder, base_model=base, flags=flags, folder=tmp_path / "made"
    )
    windows = [Window(train=users(opening), heldout=users(opening)[:3]) for opening in ("NOTE", "HINT")]
    for remember in (True, False):
        made.clear()
        losses = list(
            with_cards(
                releases, windows, plan, vote(1.0), lambda number: bytes([number + 1]) * 32, remember=remember
            )
        )
        assert [[len(of_window) for of_window in one] for one in losses] == [[3, 3], [3, 3]]
        first, second = made
        assert second.before == int(remember)
        assert second.public_part.remembered == int(remember)
        assert {one.words for one in second.card.of(Feature.OPENING_WORDS)} == {"HINT"}
        assert ("blended" in second.adapter.name) == remember
        if remember:
            trained = second.adapter.with_name("remember-1")
            (_, before), (_, after), (_, served) = map(
                split_factors, (first.adapter, trained, second.adapter)
            )
            for name, values in served.items():
                mean = (before[name] + after[name]) / 2
                assert values == pytest.approx(mean, abs=1e-6)
            ours, alone = (load_file(one / WEIGHTS) for one in (second.adapter, trained))
            assert ours.keys() == alone.keys()
            public = [name for name in ours if name.rsplit(".lora_", 1)[0] not in before]
            assert public
            assert all((ours[name] != alone[name]).any() for name in public)
