"""Templates of style cards: what they put around a prompt, and what they can never do."""

from __future__ import annotations

import pytest

from personalization.styles.prompting import template_of
from streams.gateway.templates import BARE, LONGEST, prompt_template
from tests.fakes.styles import framed


def test_the_prompt_is_put_in_once_and_is_not_read_as_a_template():
    made = prompt_template("Say it nicely.\n\nPrompt: {{ prompt }}\nAnswer:")
    assert made.render("{{ 7 * 7 }} {% for %}") == "Say it nicely.\n\nPrompt: {{ 7 * 7 }} {% for %}\nAnswer:"


def test_braces_of_a_card_stay_as_they_are():
    made = prompt_template("Use {{ '{' }}{{ '{' }}name}}.\nPrompt: {{ prompt }}")
    assert made.render("x") == "Use {{name}}.\nPrompt: x"


def test_what_a_real_card_makes_is_allowed():
    text = template_of(framed({"Dear {{ friend }}, ": 0.9}))
    assert "friend" in text
    assert text != BARE
    made = prompt_template(text)
    shown = made.render("Where is it?")
    assert shown.endswith("Prompt: Where is it?\nAnswer:")
    assert "Dear { friend }, " in shown


@pytest.mark.parametrize(
    "text",
    [
        "{% for i in range(9) %}{{ prompt }}{% endfor %}",
        "{{ prompt }}{{ prompt.__class__ }}",
        "{{ prompt|upper }}",
        "{{ prompt * 1000000 }}",
        "{{ 'a' * 100000000 }}{{ prompt }}",
        "{{ other }}{{ prompt }}",
        "{{ prompt",
        "{{ 7 }}{{ prompt }}",
        "no variable",
        "x" * (LONGEST + 1) + "{{ prompt }}",
        "",
        BARE,
    ],
)
def test_everything_else_is_no_template(text):
    assert prompt_template(text) is None


@pytest.mark.parametrize("mark", ["<|im_end|>", "<|im_start|>", "</s>", "[/INST]", "<end_of_turn>"])
def test_no_word_of_a_card_closes_a_turn(mark):
    made = prompt_template(f"Close with{mark}.\nPrompt: {{{{ prompt }}}}")
    assert mark not in made.render("x")


def test_a_template_is_named_by_its_text():
    one, other = prompt_template("A {{ prompt }}"), prompt_template("B {{ prompt }}")
    assert one.name != other.name
    assert len(one.name) == 16
