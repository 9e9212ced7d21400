"""Our own provider answers for lines, as texts, and for nothing else."""

from __future__ import annotations

import pytest
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import FlagNotFoundError, TypeMismatchError

from personalization.rollouts.values import Flag
from streams.flags.provider import FLAG_KEY, DesiredStateFlags

LINE = EvaluationContext("abcdef012345")


def test_a_line_has_the_flag_of_its_desired_state_and_an_unknown_word_is_off():
    flags = {"abcdef012345": "shadow"}
    provider = DesiredStateFlags(flags.get)
    assert provider.resolve_string_details(FLAG_KEY, "on", LINE).value == "shadow"
    flags["abcdef012345"] = "a word of tomorrow"
    assert provider.resolve_string_details(FLAG_KEY, "on", LINE).value == "off"
    assert provider.get_metadata().name


@pytest.mark.parametrize(
    "asked", [("another", LINE), (FLAG_KEY, EvaluationContext("unknown")), (FLAG_KEY, None)]
)
def test_what_is_no_flag_of_a_line_is_not_found(asked):
    with pytest.raises(FlagNotFoundError):
        DesiredStateFlags({"abcdef012345": "on"}.get).resolve_string_details(asked[0], "on", asked[1])


def test_flags_are_texts():
    provider = DesiredStateFlags({}.get)
    for ask, default in (
        (provider.resolve_boolean_details, True),
        (provider.resolve_integer_details, 1),
        (provider.resolve_float_details, 1.0),
        (provider.resolve_object_details, {}),
    ):
        with pytest.raises(TypeMismatchError):
            ask(FLAG_KEY, default, LINE)


def test_the_lesser_flag_shows_less():
    order = [Flag.OFF, Flag.SHADOW, Flag.CANARY_ONLY, Flag.ON]
    for place, flag in enumerate(order):
        for other in order[place:]:
            assert flag.lesser(other) is other.lesser(flag) is flag
