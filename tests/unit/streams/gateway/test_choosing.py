"""Which adapter, which template and which constraint a request gets, and the reason that is given."""

from __future__ import annotations

import pytest

from personalization.rollouts.values import Flag
from streams.gateway.choosing import Reason, Rules, Use, asked_for, base_instead, choose, drawn, silently
from streams.gateway.desired import Line, Version
from streams.gateway.flagged import FlaggedLines, under

TEMPLATE = "Nicely.\nPrompt: {{ prompt }}"
ONE = Version(served_name="a-line-v1", template=TEMPLATE, pattern="a+", grammar="root ::= [a]+")
TWO = Version(served_name="a-line-v2", template=TEMPLATE)


def line(**changes):
    return Line(**{"line_ref": "line", "adapter": ONE, **changes})


def chosen(given, *, subject=None, missing=(), why=Reason.NOT_HELD, **rules):
    return choose(
        "line",
        given,
        subject=subject,
        refusal=lambda name: why if name in missing else None,
        rules=Rules(**rules),
    )


def test_the_adapter_is_applied_without_its_template():
    choice = chosen(line())
    assert (choice.adapter, choice.reason, choice.template) == ("a-line-v1", Reason.APPLIED, None)
    assert (choice.pattern, choice.grammar) == ("a+", "root ::= [a]+")


@pytest.mark.parametrize("why", [Reason.NOT_HELD, Reason.NOT_VERIFIED])
def test_without_its_adapter_a_line_has_its_own_template(why):
    choice = chosen(line(), missing={"a-line-v1"}, why=why)
    assert (choice.adapter, choice.reason) == (None, why)
    assert choice.template.render("x") == "Nicely.\nPrompt: x"


def test_an_engine_without_adapters_is_asked_with_the_template():
    choice = chosen(line(), applies_adapters=False)
    assert (choice.adapter, choice.reason) == (None, Reason.NO_ADAPTERS_HERE)
    assert choice.template is not None


@pytest.mark.parametrize(
    ("use", "with_adapter", "without"),
    [(Use.INSTEAD, False, True), (Use.ALWAYS, True, True), (Use.NEVER, False, False)],
)
def test_when_templates_are_used(use, with_adapter, without):
    assert (chosen(line(), template=use).template is not None) == with_adapter
    assert (chosen(line(), missing={"a-line-v1"}, template=use).template is not None) == without


def test_constraints_can_be_switched_off():
    choice = chosen(line(), constrained=False)
    assert (choice.pattern, choice.grammar) == ("", "")


def test_a_line_that_wants_nothing_served_gets_the_base():
    assert chosen(None).reason is Reason.NO_ADAPTER
    assert chosen(line(adapter=None)).reason is Reason.NO_ADAPTER
    nothing = choose(None, None, subject=None, refusal=lambda _: None, rules=Rules())
    assert (nothing.adapter, nothing.reason, nothing.line_ref) == (None, Reason.NO_LINE, None)


def test_a_subject_always_gets_the_same_version():
    given = line(candidate=TWO, candidate_percent=30.0, salt="s")
    names = [f"user-{number}" for number in range(2_000)]
    got = {name: chosen(given, subject=name).adapter for name in names}
    assert got == {name: chosen(given, subject=name).adapter for name in names}
    share = sum(adapter == "a-line-v2" for adapter in got.values()) / len(names)
    assert 0.26 < share < 0.34
    assert {name: drawn(line(candidate_percent=30.0, salt="t"), name) for name in names} != {
        name: drawn(given, name) for name in names
    }


def test_nobody_unnamed_and_nobody_at_zero_gets_a_candidate():
    assert chosen(line(candidate=TWO, candidate_percent=100.0)).adapter == "a-line-v1"
    assert chosen(line(candidate=TWO, candidate_percent=0.0), subject="u").adapter == "a-line-v1"
    assert chosen(line(candidate=TWO, candidate_percent=100.0), subject="u").reason is Reason.CANDIDATE


def test_a_candidate_that_is_not_there_gives_way_to_the_adapter():
    given = line(candidate=TWO, candidate_percent=100.0)
    assert chosen(given, subject="u", missing={"a-line-v2"}).adapter == "a-line-v1"


def test_what_turns_out_not_to_be_there_becomes_the_base_with_the_lines_own_template():
    given = line()
    choice = base_instead(chosen(given), given, Reason.WRONG_ANSWERER, Rules())
    assert (choice.adapter, choice.reason, choice.line_ref) == (None, Reason.WRONG_ANSWERER, "line")
    assert choice.template is not None


def test_what_is_asked_for_is_what_the_line_wants_whether_or_not_it_is_there():
    assert asked_for(None, "ann") == ()
    assert asked_for(line(adapter=None), "ann") == ()
    assert asked_for(line(), None) == ("a-line-v1",)
    everybody = line(candidate=TWO, candidate_percent=100.0, salt="s")
    assert asked_for(everybody, "ann") == ("a-line-v2", "a-line-v1")
    assert asked_for(everybody, None) == ("a-line-v1",), "without a subject nobody gets the candidate"
    assert asked_for(line(candidate=TWO, flag=Flag.SHADOW), None) == ("a-line-v2", "a-line-v1")
    assert asked_for(line(flag=Flag.OFF), "ann") == ()


@pytest.mark.parametrize(
    ("flag", "reason", "percent"),
    [
        ("on", "candidate", 50.0),
        ("canary_only", "applied", 0.001),
        ("shadow", "applied", 0.0),
        ("off", "switched_off", 0.0),
    ],
)
def test_a_flag_bounds_what_requests_get(flag, reason, percent):
    flagged = under(line(candidate=TWO, candidate_percent=50.0, first_step=0.001, salt="s"), Flag(flag))
    assert flagged.candidate_percent == percent
    subject = next(one for one in map(str, range(100)) if drawn(line(candidate_percent=50.0, salt="s"), one))
    choice = chosen(flagged, subject=subject)
    assert choice.reason.value == reason
    silent = silently(choice, flagged, Rules())
    assert (silent is not None and silent.adapter == TWO.served_name) == (flag == "shadow")


def test_the_operators_word_is_asked_for_a_few_times_a_second_and_our_own_at_once():
    asked, now = [], [0.0]

    class Flags:
        def flag(self, line_ref, **_):
            asked.append(line_ref)
            return Flag.ON

    flagged = FlaggedLines(Flags(), lambda: now[0])
    for _ in range(5):
        flagged(line(), "acme", "default")
    assert len(asked) == 1
    flagged(line(flag=Flag.SHADOW), "acme", "default")
    now[0] = 0.5
    flagged(line(flag=Flag.SHADOW), "acme", "default")
    assert len(asked) == 3
