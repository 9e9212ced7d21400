"""Serving quality is counted of each version for a day, once an answer, and told to its own tenant alone."""

from __future__ import annotations

import pytest

from streams.client import Accepted, Edited, Rating, Rejected
from streams.gateway.kpis import HOURS, Kpis, edit_distance


def told(kpis, tenant="acme"):
    return {row["version"]: row for row in kpis.document(tenant)["kpis"]}


def test_what_answers_take_and_what_users_make_of_them():
    kpis = Kpis(lambda: 0.0)
    for number in range(20):
        kpis.answered("acme", "legal", "a-x-v2", seconds=0.2 if number else 4.0, tokens=10, whole=number > 4)
    kpis.answered("acme", "legal", None, seconds=100.0, tokens=None, whole=True)
    for number, outcome in enumerate(
        [Accepted(), Accepted(), Edited(final_text="one three"), Rejected(), Rating(rating=4)]
    ):
        for _ in range(2):  # a second word on the same answer counts for nothing
            kpis.judged("acme", "legal", "a-x-v2", answer_id=str(number), shown="one two", outcome=outcome)
    assert told(kpis)["a-x-v2"] == {
        "domain": "legal", "version": "a-x-v2", "answers": 20, "completion": 0.75, "latency_p50": 0.25,
        "latency_p95": 0.25, "tokens": 10, "feedback": 4, "acceptance": 0.5, "edit_distance": 0.5, "ratings": 1,
        "rating": 4,
    }  # fmt: skip
    base = told(kpis)["base"]
    assert (base["latency_p50"], base["tokens"], base["acceptance"]) == (None, None, None)
    assert told(kpis, "globex") == {}


def test_a_day_later_it_is_forgotten_and_a_flood_drives_out_the_oldest():
    now = [0.0]
    kpis = Kpis(lambda: now[0], most=2)
    kpis.answered("acme", "default", "old", seconds=0.1, tokens=1, whole=True)
    now[0] = 3600.0
    kpis.answered("acme", "default", "new", seconds=0.1, tokens=1, whole=True)
    assert set(told(kpis)) == {"old", "new"}
    now[0] = HOURS * 3600.0
    assert set(told(kpis)) == {"new"}
    for version in ("one", "two"):
        kpis.answered("acme", "default", version, seconds=0.1, tokens=1, whole=True)
    assert set(told(kpis)) == {"one", "two"}


def test_one_tenants_flood_drives_out_its_own_alone():
    kpis = Kpis(lambda: 0.0, most=10, most_answers=10)

    def judged(tenant, number):
        kpis.judged(tenant, "default", None, answer_id=str(number), shown="one", outcome=Accepted())

    for number in range(3):
        judged("acme", number)
        kpis.answered("acme", "default", f"v{number}", seconds=0.1, tokens=1, whole=True)
    for number in range(100, 200):
        judged("globex", number)
        kpis.answered("globex", "default", f"v{number}", seconds=0.1, tokens=1, whole=True)
    for number in range(3):
        judged("acme", number)  # a second word, which must still be known as one
    assert told(kpis)["base"]["feedback"] == 3
    assert set(told(kpis)) == {"base", "v0", "v1", "v2"}
    assert len(told(kpis, "globex")) == 6


@pytest.mark.parametrize(
    ("shown", "final", "distance"),
    [
        ("a b c", "a b c", 0.0),
        ("a b c", "a x c", 1 / 3),
        ("a", "a b c d", 0.75),
        ("", "", 0.0),
        ("a", "", 1.0),
    ],
)
def test_an_edit_is_counted_in_words(shown, final, distance):
    assert edit_distance(shown, final) == pytest.approx(distance)
