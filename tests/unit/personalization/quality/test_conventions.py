"""The judge's conventions: found at both ends of any kind of text, from the answers alone."""

from __future__ import annotations

import pytest

from personalization.quality.conventions import Conventions


def content(number):
    """Return five words that no other number has."""
    name = "abcdefghij"[number // 10] + "abcdefghij"[number % 10]
    return " ".join(word + name for word in ("vo", "wi", "xu", "ye", "za"))


def commits(count=20):
    for number in range(count):
        prompt = f"Changed files:\n- docs/page{number}.md\n- src/net/core.c"
        yield prompt, f"KAFKA-{1000 + number}: {content(2 * number)} (#{number})"
        yield prompt, f"MINOR: {content(2 * number + 1)} (#{number})"


def test_openings_and_closings_of_commit_subjects():
    pairs = list(commits())
    assert Conventions.of(pairs).found == {"KAFKA-{n}:": 0.5, "MINOR:": 0.5}
    assert Conventions.of(pairs, backward=True).found == {"(#{n})": 1.0}


def test_a_copy_from_the_prompt_is_one_slot_and_marks_stay():
    names = [
        "go-jose",
        "Awesome Remote Job",
        "vitess",
        "auto flags",
        "ent",
        "phuslu/log",
        "Spot",
        "koanf",
        "zerolog",
    ]
    pairs = [(f"New entry: {name}", f"* [{name}](URL) - {content(at)}.") for at, name in enumerate(names)]
    found = Conventions.of(pairs)
    assert found.found == {"* [{p}](URL) -": 1.0}
    assert found.name("* [hotel](URL) - a bed", "New entry: hotel") == "* [{p}](URL) -"
    assert found.name("- [hotel](URL) - a bed", "New entry: hotel") == ""
    assert Conventions.of(pairs, backward=True).found == {".": 1.0}


def test_greetings_are_phrases_of_words():
    pairs = [(f"q{at}", f"Hi there! Thanks for {content(at)}. Cheers, the shop team") for at in range(10)]
    assert Conventions.of(pairs).found == {"Hi there! Thanks for": 1.0}
    assert Conventions.of(pairs, backward=True).found == {". Cheers, the shop team": 1.0}


def test_answers_without_a_shared_form_have_no_convention():
    found = Conventions.of([("say", content(at)) for at in range(20)])
    assert found.found == {}
    assert found.name("rain falls", "say") == ""


def test_what_too_few_answers_hold_is_cut_back_to_what_many_do():
    # Twenty prefixes of a twenty-fourth each share a word and a colon.
    pairs = [("say", f"{content(at).split()[0]}: {content(at + 30)}") for at in range(20)]
    assert Conventions.of([*pairs, *[("say", content(at + 60)) for at in range(4)]]).found == {
        "{t}:": pytest.approx(20 / 24)
    }


def test_no_answer_has_no_convention():
    with pytest.raises(ValueError, match="there is none"):
        Conventions.of([])
    assert Conventions.of(list(commits())).name("", "prompt") == ""
