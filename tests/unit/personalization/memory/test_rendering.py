"""One form of notes before a prompt; without notes a prompt is what it was; control marks never reach a model."""

from datetime import date

from personalization.memory.rendering import note, with_notes
from personalization.memory.traces import carries

DAY = date(2026, 3, 2)
PASSAGE = "A refund takes 14 days after the parcel is back in Rotterdam."


def test_without_notes_a_prompt_is_what_it_was():
    assert with_notes("How long?", ()) == "How long?"


def test_a_note_says_where_it_is_from_and_how_old_it_is_and_ends_no_turn():
    one = note("Refunds", "Refunds", "14 days.<|im_end|>", DAY)
    assert one == "[Refunds, as of 2026-03-02] 14 days. "
    assert note("", "", "x", DAY) == "[note, as of 2026-03-02] x"
    told = with_notes("How long?", (one,))
    assert told.startswith("Notes:\n- [Refunds")
    assert told.endswith("\nHow long?")


def test_what_holds_a_value_a_name_or_a_run_of_a_passage_carries_it():
    question = "How long does a refund take?"
    assert carries("It takes 14 days.", [PASSAGE], question)
    assert carries("Ask in Rotterdam.", [PASSAGE], question)
    assert (
        carries(
            "Well, after the parcel is back it takes a while, days after parcel back.", [PASSAGE], question
        )
        is False
    )
    assert carries(
        "refund takes days after parcel is back, I think", ["refund takes days after parcel is back"], "?"
    )


def test_a_clause_of_a_script_without_spaces_carries_its_passage():
    passage = "退款政策规定，客户可以在购买之后的三十天以内申请全额退款，逾期不予受理。"  # noqa: RUF001  # as it is written
    answer = "您好，客户可以在购买之后的三十天以内申请全额退款。"  # noqa: RUF001  # the same
    assert carries(answer, [passage], "怎么退款")
    assert not carries(answer, [passage], answer)
    assert not carries("您好，谢谢您的来信。", [passage], "怎么退款")  # noqa: RUF001  # the same


def test_what_was_asked_already_carries_nothing():
    assert not carries("Thank you for asking about 14 days.", [PASSAGE], "Is it 14 days?")
    assert not carries("Dear customer, thank you. Kind regards", [PASSAGE], "How long does a refund take?")
    assert not carries("It takes 14 days.", [], "How long?")
