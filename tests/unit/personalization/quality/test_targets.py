"""The rows of a quality run: what is asked of which release, and what counts as reached."""

from __future__ import annotations

import pytest

from personalization.quality.targets import released, rows_of, users_needed


def share(value):
    return {"value": value, "low": value - 0.05, "high": value + 0.05}


def run(arm, nll, **about):
    return {
        "arm": arm, "nll": share(nll), "by_place": {"first": nll}, "public_text_change": 0.0,
        "agreement": {name: share(0.5) for name in ("match", "in_set", "closing", "length", "casing")},
        "degenerate": {"any": 0.02, "limit": 0.0}, **about,
    }  # fmt: skip


def private(users, epsilon, start, nll, recovery=0.6, **about):
    return run(
        "private", nll, users=users, epsilon=epsilon, start=start, recovery=share(recovery),
        train_seconds=10.0, **about,
    )  # fmt: skip


def document(*runs, tenant="kafka", openings=("A:",)):
    return {
        "settings": {"tenant": tenant},
        "conventions": {"openings": dict.fromkeys(openings, 0.5)},
        "runs": [run("base", 5.0), run("plain", 3.0, users=300), *runs],
        "releases": [],
    }


def rows(*runs, **how):
    return {row["name"]: row for row in rows_of(document(*runs, **how))}


def test_targets_hang_on_the_newest_way_alone():
    found = rows(private(300, 4.0, "zero", 4.5, 0.2), private(300, 4.0, "card", 3.5, 0.7))
    gain = found["300 users, ε = 4, from a card, 1 noise seeds: share of the plain LoRA's gain"]
    assert (gain["must"], gain["ok"]) == (">= 0.65", True)
    assert found["300 users, ε = 4, from zero, 1 noise seeds: share of the plain LoRA's gain"]["must"] is None
    assert found["300 users, ε = 4, from a card, 1 noise seeds: match over the plain LoRA's"]["ok"] is True
    assert found["300 users, ε = 4, from a card, 1 noise seeds: in set"]["ok"] is False
    assert [one["start"] for one in released(document(private(1, 1, "zero", 1.0))["runs"])] == ["zero"]


def test_a_tenant_of_form_is_asked_for_more_and_one_without_a_form_for_no_set():
    name = "300 users, ε = 4, from a card, 1 noise seeds: share of the plain LoRA's gain"
    assert rows(private(300, 4.0, "card", 3.5), tenant="golists")[name]["must"] == ">= 0.75"
    without = rows(private(300, 4.0, "card", 3.5), openings=())
    assert without["300 users, ε = 4, from a card, 1 noise seeds: in set"]["must"] is None


@pytest.mark.parametrize(("later", "ok"), [(3.9, True), (4.02, True), (4.2, False)])
def test_more_users_must_not_lose_beyond_the_noise(later, ok):
    found = rows(private(100, 4.0, "card", 4.0), private(300, 4.0, "card", later))
    (row,) = (row for name, row in found.items() if name.startswith("more users or ε"))
    assert row["ok"] is ok
    assert row["value"] == pytest.approx(later - 4.0)


def test_abilities_may_fall_within_their_interval_alone():
    def changed(value, high):
        ability = {"value": value, "low": value - 0.1, "high": high}
        found = rows(
            private(300, 4.0, "card", 3.5, abilities={"right_change": ability, "kept_change": ability})
        )
        return found["questions answered right, against the base, worst release"]["ok"]

    assert changed(-0.005, -0.001)
    assert changed(-0.05, 0.02)
    assert not changed(-0.05, -0.01)


def test_degenerate_answers_are_held_against_the_base():
    bad = private(300, 4.0, "card", 3.5) | {"degenerate": {"any": 0.05, "limit": 0.3}}
    name = "degenerate answers, more than the base's, worst release"
    assert rows(bad)[name]["ok"] is False
    assert rows(private(300, 4.0, "card", 3.5))[name]["ok"] is True


def test_users_saved_lie_between_the_points_of_the_curve_and_never_beyond():
    curve = {50: 1.0, 200: 3.0}
    assert users_needed(curve, 2.0) == pytest.approx(100.0)
    assert users_needed(curve, 0.5) == 50.0
    assert users_needed(curve, 9.0) == 200.0
    found = rows(
        private(50, 4.0, "zero", 4.5), private(100, 4.0, "zero", 4.2), private(300, 4.0, "zero", 4.0),
        private(100, 4.0, "card", 4.0),
    )  # fmt: skip
    row = found["users from zero for the loss of 100 users, ε = 4, from a card"]
    assert row["value"] == pytest.approx(3.0)
    assert (row["must"], row["ok"]) == (">= 1.5", True)
