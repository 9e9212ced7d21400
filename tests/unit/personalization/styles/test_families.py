"""What a prompt begins with is told where it is a short fixed phrase; names in it are slots and never words."""

from __future__ import annotations

import pytest

from personalization.styles.abstraction import segments
from personalization.styles.families import Feature, keys_of, prompt_head


@pytest.mark.parametrize(
    ("prompt", "answer", "head"),
    [
        ("Customer Quim writes: Where is it?\nOur reply:", "Hey Quim! It left.", "Customer {copy} writes: "),
        ("Customer Quim writes: Where is it?", "It left.", "Customer {copy} writes: "),
        ("Quim: Where is it?", "Hey Quim! It left.", "{copy}: "),
        ("Changed files:\n- a/b.py", "b: fix", "Changed files:\n"),
        ("New entry for the list: nanoid", "* [nanoid](URL) - ids", "New entry for the list: "),
        ("Case 4711: no light", "Case 4711 is closed", "Case {n}: "),
        ("Say {this}: now", "now", "Say {{this}}: "),
        ("Where is it?", "It left.", ""),
        ("first line\nsecond: line", "line", ""),
        ("one two three four five six seven eight: no", "no", ""),
        ("sKeyAbCd: value", "value", ""),
        (": what", "what", ": "),
    ],
)
def test_how_a_prompt_begins(prompt, answer, head):
    assert prompt_head(prompt, segments(answer, prompt)) == head


@pytest.mark.parametrize(
    ("prompt", "answer", "word"),
    [
        ("Changed files:\ndocs/rules/a.md", "docs: add examples", "docs"),
        ("Changed files:\ndocs/rules/a.md", "Docs: add examples", "Docs"),
        ("Changed files:\ndocs/rules/a.md", "Fix: add examples", "Fix"),
        ("Changed files:\nsrc/lsp/cache.go", "src/lsp: add a cache", None),
        ("Customer Quim writes: Where is it?", "Quim: it left", None),
        ("Quim: Where is it?", "Quim, it left", None),
        ("Quim writes: Where is it?", "Quim: it left", None),
        ("Where is it? Quim waits", "Quim: it left", None),
        ("Ask Quim, his page is users/quim", "quim: it left", None),
        ("build/BUILD.bazel", "build: set it", "build"),
        ("order 4711 is late", "4711: it left", None),
    ],
)
def test_a_label_that_the_prompt_holds_too_is_told_and_a_name_or_a_place_is_not(prompt, answer, word):
    told = [
        key.words for key in keys_of(answer, prompt) if (key.feature, key.depth) == (Feature.OPENING_WORDS, 1)
    ]
    assert told == ([] if word is None else [word])
