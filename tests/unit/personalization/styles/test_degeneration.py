"""What no user would write."""

from __future__ import annotations

import pytest

from personalization.styles.degeneration import (
    degenerate_share,
    goes_in_circles,
    has_endless_number,
    is_wordless,
)

SOUND = ["Fix the reader (#12345678)", "Dear Alma, your lamp is on its way.", "no no no no no"]


@pytest.mark.parametrize("text", SOUND)
def test_what_a_user_may_write(text):
    assert not goes_in_circles(text)
    assert not has_endless_number(text)
    assert not is_wordless(text)


def test_each_kind_is_seen():
    assert goes_in_circles("Add a retry" + " in a retry-handler" * 3)
    assert has_endless_number("KAFKA-100000000")
    assert is_wordless(" (#12) ")
    assert is_wordless("")


def test_one_text_for_many_prompts_is_none_of_theirs():
    various = [f"{word} answer" for word in "abcdefghijklmnopqrstuvwxyz"]
    assert degenerate_share(various) == 0.0
    same = [f"Fix {at}" for at in range(26)]  # numbers make no difference
    assert degenerate_share(same) == 1.0
    assert degenerate_share([*various, *various, *various[:1]]) == 3 / 53  # two of 53 may be alike, three not
