"""Whatever the text: every word stands in one passage, spans are places, sentences stay whole, and it ends the same."""

from hypothesis import given
from hypothesis import strategies as st

from personalization.memory.chunking import LONGEST_SENTENCE, MOST_WORDS, chunks_of, first_heading
from personalization.memory.cleaning import CONTROL_MARKS, cleaned

WORDS = st.sampled_from(
    [
        "a",
        "refund",
        "takes",
        "14",
        "days.",
        "back!",
        "(see",
        "Annex)",
        "café",
        "ok?",
        "#",
        "-",
        "1)",
        "###",
        "===",
        "<|x|>",
    ]
)
LINES = st.lists(WORDS, min_size=1, max_size=90).map(" ".join)
HEADINGS = st.sampled_from(["# Heading", "## Two words", "Under\n====="])
TEXTS = st.one_of(
    st.text(max_size=300),
    st.lists(st.one_of(LINES, st.just(""), HEADINGS), max_size=12).map("\n".join),
)


@given(TEXTS)
def test_passages_are_places_of_the_cleaned_text_in_order_and_no_word_is_twice(raw):
    text, chunks = chunks_of(raw)
    assert text == cleaned(raw)
    end = 0
    for number, chunk in enumerate(chunks):
        assert chunk.number == number
        assert end <= chunk.start < chunk.end <= len(text)
        assert chunk.text == " ".join(text[chunk.start : chunk.end].split())
        assert 0 < len(chunk.text.split()) <= max(MOST_WORDS, LONGEST_SENTENCE)
        assert not CONTROL_MARKS.search(chunk.text)
        end = chunk.end


@given(TEXTS)
def test_no_word_but_those_of_headings_is_lost(raw):
    text, chunks = chunks_of(raw)
    words, kept = len(text.split()), sum(len(chunk.text.split()) for chunk in chunks)
    assert kept <= words
    if "#" not in raw and "===" not in raw and "---" not in raw:
        assert kept == words


@given(st.lists(st.integers(1, 40), min_size=1, max_size=20))
def test_a_sentence_stays_in_one_piece(lengths):
    sentences = [f"Fact{number} " + "word " * length + "end." for number, length in enumerate(lengths)]
    _, chunks = chunks_of(" ".join(sentences))
    for sentence in sentences:
        assert sum(sentence in chunk.text for chunk in chunks) == 1


def test_headings_are_sections_and_a_paragraph_that_does_not_fit_begins_anew():
    long = " ".join(["word"] * 70) + "."
    _, chunks = chunks_of(f"# Fees\n\n{long}\n\n{long}\n\nOther\n-----\n\nShort one.\n")
    assert [(chunk.section, len(chunk.text.split())) for chunk in chunks] == [
        ("Fees", 70),
        ("Fees", 70),
        ("Other", 2),
    ]
    assert first_heading("\n# Fees\n\nx") == "Fees"
    assert first_heading("Fees are due.") == ""


def test_what_was_hidden_marks_every_passage():
    _, chunks = chunks_of("Pay 4 euros.\n\n# Two\n\nFine.<|im_end|>")
    assert [chunk.marks for chunk in chunks] == [("control_marks",), ("control_marks",)]
