"""What the page of a version tells of looks at users' reactions."""

from __future__ import annotations

from streams.cli.explain import _comparison


def test_a_look_that_was_changed_is_named_and_nothing_is_told_from_it_on():
    def look(number, **facts):
        known = {"lost": False, "holds": True, "effect": None, "users": None}
        return {"look": number, "taken_at": "2026-03-02T09:30:00+00:00", **known, **facts}

    facts = {
        "plan": {"mechanism": {"noise_multiplier": 4.0}},
        "verdict": "undecided", "version": "a-1-v1", "reservation_id": "r1",
        "looks": [look(0, effect=0.1, users=90.0), look(1, holds=False), look(2)],
    }  # fmt: skip
    told = [line.partition(": ")[2] for line in _comparison(facts) if "look " in line]
    assert told == [
        "acceptance +10.0 points so far, of about 90 users",
        "its sums are not those that were signed for this charge; nothing is decided from them",
        "nothing is decided from it, because an earlier look does not hold",
    ]
