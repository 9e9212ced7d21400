"""An operator's provider may lower a flag and never raise it; the kill switch works without it."""

from __future__ import annotations

from importlib.metadata import EntryPoint, EntryPoints

import pytest
from openfeature.provider.in_memory_provider import InMemoryFlag, InMemoryProvider

from streams.errors import SettingsError
from streams.flags import evaluating
from streams.flags.evaluating import LineFlags, operators_provider
from streams.flags.provider import FLAG_KEY, Flag

LINE = "abcdef012345"


def operators(value):
    return InMemoryProvider({FLAG_KEY: InMemoryFlag(value, {value: value})})


def ask(flags):
    return flags.flag(LINE, tenant_id="acme", domain="default")


def test_without_an_operators_provider_the_desired_state_decides():
    states = {LINE: "on"}
    flags = LineFlags(states.get)
    assert ask(flags) is Flag.ON
    states[LINE] = "off"
    assert ask(flags) is Flag.OFF, "the next request sees it"
    del states[LINE]
    assert ask(flags) is Flag.OFF, "a line that wants nothing served shows nothing"


@pytest.mark.parametrize(
    ("own", "theirs", "holds"),
    [("on", "shadow", "shadow"), ("shadow", "on", "shadow"), ("on", "on", "on"), ("on", "nonsense", "off")],
)
def test_the_flag_that_shows_less_holds(own, theirs, holds):
    assert ask(LineFlags({LINE: own}.get, operators(theirs))).value == holds


def test_a_provider_that_fails_changes_nothing_and_is_counted():
    failures = []
    flags = LineFlags({LINE: "canary_only"}.get, InMemoryProvider({}), lambda: failures.append(1))
    assert ask(flags) is Flag.CANARY_ONLY
    assert failures == [1]


def test_the_kill_switch_does_not_ask_the_operators_provider():
    class Broken(InMemoryProvider):
        def resolve_string_details(self, *_):
            raise AssertionError("asked")

    failures = []
    assert ask(LineFlags({LINE: "off"}.get, Broken({}), lambda: failures.append(1))) is Flag.OFF
    assert failures == []


def test_a_provider_is_plugged_in_by_its_entry_point(monkeypatch):
    entry = EntryPoint("mine", "openfeature.provider.no_op_provider:NoOpProvider", evaluating.GROUP)
    monkeypatch.setattr(evaluating, "entry_points", lambda group: EntryPoints([entry]).select(group=group))
    assert type(operators_provider("mine")).__name__ == "NoOpProvider"
    assert operators_provider("") is None
    with pytest.raises(SettingsError, match="mine"):
        operators_provider("another")


def test_two_of_them_in_one_process_do_not_answer_for_each_other():
    one, two = LineFlags({LINE: "on"}.get), LineFlags({LINE: "shadow"}.get)
    assert (ask(one), ask(two)) == (Flag.ON, Flag.SHADOW)
