"""A slow machine is waited for as long as something happens."""

from __future__ import annotations

from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from streams.demo import installation
from streams.demo.installation import Installation
from streams.errors import DemoError


@pytest.fixture
def here(monkeypatch, tmp_path):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(
        installation,
        "time",
        SimpleNamespace(
            monotonic=lambda: clock.now, sleep=lambda seconds: setattr(clock, "now", clock.now + seconds)
        ),
    )
    found = Installation(SimpleNamespace(), ExitStack(), tmp_path, "none")
    found._children = SimpleNamespace(check=lambda: None)
    found.clock = clock
    return found


def test_what_moves_on_may_take_any_time(here):
    here.wait(lambda: here.clock.now > 1000, 60.0, progress=lambda: int(here.clock.now / 50))
    assert here.clock.now > 1000


@pytest.mark.parametrize("until", [0, 500])
def test_what_stands_still_is_given_up(here, until):
    with pytest.raises(DemoError, match="nothing came of the stage shown last in 60 s"):
        here.wait(lambda: False, 60.0, progress=lambda: int(min(here.clock.now, until) / 50))
    assert here.clock.now == pytest.approx(until + 60, abs=1)
