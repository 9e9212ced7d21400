"""Which pairs of a public list an edit made: by what became rarer and more common, whatever else was rewritten."""

from __future__ import annotations

import pytest

from personalization.styles.listed import listed_pairs
from personalization.styles.terms import steady_pairs
from personalization.styles.votes import StyleText

GLOSSARY = (
    ("cuber netties", "Kubernetes"),
    ("kafka", "Kafka"),
    ("acne cloud", "AcmeCloud"),
    ("acne cloud", "Acme Cloud"),
    ("red", "Redis"),
)


def made(shown, final):
    return listed_pairs([StyleText(prompt="p", shown=shown, final=final)], GLOSSARY)


@pytest.mark.parametrize(
    ("shown", "final", "pairs"),
    [
        ("so Cuber  netties runs", "so Kubernetes runs", [0]),
        ("use kafka now", "use Kafka now", [1]),
        ("the acne cloud is up", "the Acme Cloud is up", [3]),
        ("cuber netties and kafka", "Kubernetes, then Kafka", [0, 1]),
        ("cuber netties cuber netties", "Kubernetes cuber netties", [0]),
        ("red", "Redis", [4]),
        # Nothing was made: one side alone changed, it stands within another word, or it was put the other way round.
        ("cuber netties", "that thing", []),
        ("it runs", "Kubernetes runs, and Kafka", []),
        ("kafkaesque", "Kafka", []),
        ("Kafka", "kafka", []),
        ("Kubernetes", "cuber netties", []),
        ("cuber netties, Kubernetes", "Kubernetes, Kubernetes", [0]),
        ("", "", []),
    ],
)
def test_a_pair_was_made_where_its_wrong_side_went_and_its_right_one_came(shown, final, pairs):
    assert made(shown, final) == [GLOSSARY[number] for number in pairs]


def test_an_edit_that_rewrote_everything_tells_of_listed_terms_and_of_no_others():
    edit = StyleText(
        prompt="p",
        shown="so we moved cuber netties over and it took us ages, boss",
        final="Migration of Kubernetes: done, with a delay.",
    )
    assert listed_pairs([edit], GLOSSARY) == [GLOSSARY[0]]
    assert steady_pairs([edit]) == []


def test_each_pair_counts_once_however_many_texts_have_it_and_what_was_only_kept_counts_for_nothing():
    edit = StyleText(prompt="p", shown="kafka", final="Kafka")
    assert listed_pairs([edit, edit, StyleText(prompt="p", final="Kubernetes")], GLOSSARY) == [GLOSSARY[1]]
