"""Pieces of an answer give the text that the whole answer gives, however they are cut, and soon."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from streams.client.terms import AROUND, MOST_SPACES, Terms

TERMS = Terms(
    [
        ("postgres sequel", "PostgreSQL"),
        ("postgres", "Postgres"),
        ("sequel server", "SQL Server"),
        ("kafka", "Apache Kafka"),
        ("e-mail", "email"),
        ("color", "colour"),
        ("colour", "COLOUR"),
        (".nett", ".NET"),
    ]
)
AS_LONG = Terms([("red is", "Redis!"), ("kafka", "KAFKA"), ("kafka-lite", "Kafka-Lite"), ("red", "RED")])
LONGEST = len("kafka-lite") + MOST_SPACES
some_words = st.sampled_from(
    [
        "kafka", "Kafka", "apache", "postgres", "sequel", "server", "color", "e-mail", "red", "is", "-lite", ".nett",
        ".", ",", "'s", "-", "`", "``", "```", "/", "\\", "@", "x", "://", ":", "https", "#", " ", "  ", "\t", "\n",
        "\u0130", "\u017f", "\u212a", "(", ")", "~~~~", "=", 9 * " ", AROUND * "a",
    ]
)  # fmt: skip
texts = st.lists(some_words, max_size=40).map("".join)


def in_pieces(terms, text, cuts):
    """Return what is said after each piece."""
    stream = terms.stream()
    ends = [*sorted({cut for cut in cuts if cut < len(text)}), len(text)]
    said = [stream.add(text[start:end]) for start, end in zip([0, *ends], ends, strict=False)]
    return [*said, stream.end()], stream.corrected


@given(texts, st.lists(st.integers(0, 200), max_size=30))
@example("kafka" + AROUND * "." + "/x kafka" + AROUND * "." + "./x", list(range(400)))
@example(
    "x" * 3_000 + " `" + "kafka " * 500 + "` kafka \n" + "kafka ``` kafka `` kafka ``` kafka",
    list(range(9_000)),
)
@example("https://" + "x=" * 900 + "kafka " + "https://" + "y," * 200 + "kafka", list(range(4_000)))
def test_any_pieces_of_any_text_give_what_the_whole_text_gives(text, cuts):
    whole = TERMS.correct(text)
    said, corrected = in_pieces(TERMS, text, cuts)
    assert "".join(said) == whole.text
    assert corrected == len(whole.corrections)
    letters, _ = in_pieces(TERMS, text, range(len(text)))
    assert "".join(letters) == whole.text


@given(texts)
@example("red is " * 400)
@example("kafka" + 400 * "a" + " " + "kafka" + 400 * "~")
def test_no_character_is_held_longer_than_the_longest_term_and_what_decides_about_it(text):
    said, _ = in_pieces(AS_LONG, text, range(len(text)))
    assert "".join(said) == AS_LONG.correct(text).text
    came = gone = 0
    for piece in said[:-1]:
        came, gone = came + 1, gone + len(piece)
        assert came - gone <= LONGEST + AROUND + 3


def test_words_that_begin_no_term_pass_at_once():
    plain = 20 * "nothing of it here, really. "
    stream = AS_LONG.stream()
    held = [letter for letter in plain if not stream.add(letter)]
    assert held == 20 * ["r", "e"], "each waits for the letter after it alone"
