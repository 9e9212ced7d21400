"""Scores, intervals and the split of users: pure functions of the quality benchmark."""

from __future__ import annotations

import gzip
import json

import pytest

from personalization.quality.data import read_tenant, tenants_in
from personalization.quality.intervals import mean_interval, recovery_interval
from personalization.quality.plots import draw
from personalization.quality.scores import chrf, convention, expected_calibration_error, prefix_matches
from personalization.training.errors import JobInvalidError


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("KAFKA-1234: Fix it", "KAFKA-n"),
        ("KAFKA-99 New producer", "KAFKA-n"),
        ("fix(menu): focus", "fix()"),
        ("feat(a)!: drop it", "feat()"),
        ("net/http: reject empty hosts", "path"),
        ("BUG: wrong sign", "BUG"),
        ("fix: wrong sign", "fix"),
        ("just a sentence without one", ""),
        ("", ""),
    ],
)
def test_the_convention_of_a_subject_line(text, wanted):
    assert convention(text) == wanted


def test_a_convention_matches_whatever_number_it_carries():
    assert prefix_matches("KAFKA-1: a", "KAFKA-222: b")
    assert not prefix_matches("Fix: a", "fix: a")


def test_chrf_of_equal_disjoint_and_half_equal_texts():
    assert chrf("add a page", "add a page") == pytest.approx(100.0)
    assert chrf("abc", "xyz") == 0.0
    assert 0.0 < chrf("add a page", "add a book") < 100.0
    # β = 2: missing text costs more than additional text.
    assert chrf("add", "add a page") < chrf("add a page", "add")


def test_calibration_error_of_a_perfect_and_an_overconfident_model():
    assert expected_calibration_error([1.0, 1.0], [True, True]) == 0.0
    assert expected_calibration_error([0.95, 0.95], [True, False]) == pytest.approx(0.45)
    with pytest.raises(ValueError, match="same length"):
        expected_calibration_error([0.5], [])


def test_an_interval_holds_its_mean_and_repeats():
    losses = [1.0, 2.0, 3.0, 4.0]
    first, second = mean_interval(losses), mean_interval(losses)
    assert first == second
    assert first.value == 2.5
    assert first.low < first.value < first.high
    assert not first.touches(mean_interval([10.0, 10.0]))


def test_recovery_is_the_share_of_the_gain_and_pairs_users():
    base, open_ = [5.0, 6.0, 7.0, 8.0], [4.0, 5.0, 6.0, 7.0]
    half = [4.5, 5.5, 6.5, 7.5]
    found = recovery_interval(base, half, open_)
    # Every user keeps exactly half, so pairing leaves nothing to vary.
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))
    with pytest.raises(ValueError, match="gains nothing"):
        recovery_interval(base, half, base)


def write_tenant(folder, name, users=12):
    with gzip.open(folder / f"{name}.jsonl.gz", "wt", encoding="utf-8") as file:
        for user in range(users):
            for event in range(3):
                line = {"tenant": name, "user": f"u{user}", "id": f"{user}-{event}", "at": 100 * event + user}
                file.write(
                    json.dumps({**line, "prompt": f"p{user}", "completion": f"c{user}.{event}"}) + "\n"
                )


def test_users_are_split_once_and_never_shared(tmp_path):
    write_tenant(tmp_path, "acme")
    assert tenants_in(tmp_path) == ["acme"]
    small = read_tenant(tmp_path, "acme", heldout_users=4, train_users=3, contribution_bound=2)
    large = read_tenant(tmp_path, "acme", heldout_users=4, train_users=8, contribution_bound=2)
    assert small.heldout == large.heldout
    assert small.train == large.train[:3]
    prompts = [{user.examples[0].prompt for user in part} for part in (large.heldout, large.train)]
    assert prompts[0].isdisjoint(prompts[1])
    assert all(len(user.examples) == 2 for user in large.train)


def test_a_window_of_time_holds_only_its_interactions(tmp_path):
    write_tenant(tmp_path, "acme")
    early = read_tenant(
        tmp_path, "acme", heldout_users=1, train_users=20, contribution_bound=9, window=(0.0, 0.3)
    )
    completions = [example.completion for user in early.train for example in user.examples]
    assert completions
    assert all(text.endswith(".0") for text in completions)


def test_unusable_recordings_are_refused(tmp_path):
    with pytest.raises(JobInvalidError, match="cannot be read"):
        read_tenant(tmp_path, "nobody", heldout_users=1, train_users=1, contribution_bound=1)
    write_tenant(tmp_path, "acme", users=2)
    with pytest.raises(JobInvalidError, match="none is left"):
        read_tenant(tmp_path, "acme", heldout_users=2, train_users=1, contribution_bound=1)


def test_a_plot_is_written(tmp_path):
    value = {"value": 4.0, "low": 3.9, "high": 4.1}
    runs = [
        {"arm": "base", "nll": value},
        {"arm": "open", "users": 100, "nll": value},
        {"arm": "private", "users": 100, "epsilon": 4.0, "start": "meta", "nll": value},
    ]
    assert draw({"runs": runs, "settings": {"tenant": "acme"}}, tmp_path / "plots").stat().st_size > 1000
