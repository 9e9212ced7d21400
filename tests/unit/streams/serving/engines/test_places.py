"""Places of an engine: tenants share them, then use decides; nobody is starved and nobody sits on one for ever."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from streams.serving.engines.places import LATELY_SECONDS, held_by, in_turn, to_put_out


def life(name, share, used_at=0.0, *, loaded_at=0.0, candidate=False):
    return SimpleNamespace(name=name, share=share, used_at=used_at, loaded_at=loaded_at, candidate=candidate)


def out(waiting, inside, *, now=100.0, busy=()):
    found = to_put_out(
        waiting, inside, held_by(inside), now=now, stay_seconds=30.0, busy=lambda one: one.name in busy
    )
    return None if found is None else found.name


def test_who_holds_fewer_places_comes_first_as_places_are_given():
    held = held_by([life("x", "busy")])
    due = [life("b1", "busy", 9), life("a1", "new", 1), life("a2", "new", 2), life("a3", "new", 3)]
    order = []
    for one in in_turn(due, held):
        order.append(one.name)
        held[one.share] += 1
    assert order == ["a3", "b1", "a2", "a1"]
    order = [one.name for one in in_turn([life("c", "s", 5, candidate=True), life("d", "s", 5)], {})]
    assert order == ["d", "c"], "a candidate after what its line serves"


@pytest.mark.parametrize(
    ("inside", "expected"),
    [
        ([life("other", "other", 90), life("mine", "mine", 95)], "mine"),
        ([life("other", "other", 90), life("more", "other", 95)], "other"),
        ([life("other", "other", 90), life("third", "third", 95)], "other"),
        ([life("new", "other", 90, loaded_at=80)], None),
        ([life("used later", "other", 99.5)], None),
    ],
    ids=["its own", "who holds more", "who has none takes one", "it stays a while", "used later"],
)
def test_who_is_put_out(inside, expected):
    assert out(life("waiting", "mine", 99), inside) == expected


def test_who_holds_as_many_is_left_alone_until_nobody_asks_for_it():
    inside = [life("other", "other", 90), life("mine", "mine", 99.5)]
    assert out(life("waiting", "mine", 99), inside) is None
    late = 90 + LATELY_SECONDS
    assert out(life("waiting", "mine", 99), inside, now=late) == "other"
    assert out(life("waiting", "mine", 99), inside, now=late, busy={"other"}) is None
