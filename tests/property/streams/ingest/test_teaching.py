"""The bound holds over what teaches: what does not takes no place in it, in whatever order and batches it comes."""

from hypothesis import given, settings
from hypothesis import strategies as st

from personalization.planning.plan import TrainingPlan
from personalization.signals.values import LEARNED, OutcomeKind, Signal, lesson
from personalization.training.jobs.job import learns_from
from streams.contracts.interaction import Accepted, Correction, Edited, Rating, Rejected
from tests.fakes.ingest_world import IngestWorld, copied_engine
from tests.fakes.stream_records import consent, interaction

TURNS = st.one_of(
    st.sampled_from([Accepted(), Rejected()]),
    st.builds(Rating, rating=st.integers(1, 5)),
    st.builds(Edited, final_text=st.sampled_from(["", "hi", "hello"])),
    st.builds(Correction, final_text=st.sampled_from(["", "hello"])),
)


def teaches(turn):
    match turn:
        case Edited(final_text=text) | Correction(final_text=text):
            return text != ""
        case Rating(rating=rating):
            return rating >= 4
    return isinstance(turn, Accepted)


@settings(max_examples=25)
@given(turns=st.lists(TURNS, max_size=12), sizes=st.lists(st.integers(1, 5), min_size=1))
def test_the_bound_counts_what_teaches_and_nothing_else(sqlite_template, tmp_path_factory, turns, sizes):
    stored = []
    numbered = list(enumerate(turns))
    for taken in (numbered, [(number, turn) for number, turn in numbered if teaches(turn)]):
        with copied_engine(sqlite_template, tmp_path_factory.getbasetemp()) as engine:
            world = IngestWorld(engine)
            world.take(world.consents, consent())
            events = [
                interaction(event_id=f"e{number}", outcome=turn, prompt=f"say {number}", offset=number)
                for number, turn in taken
            ]
            turn = 0
            while events:
                size = sizes[turn % len(sizes)]
                assert world.take(world.interactions, *events[:size]).effects == len(events[:size])
                events, turn = events[size:], turn + 1
            stored.append([len(user.examples) for user in world.users()])
    teaching = sum(map(teaches, turns))
    assert stored[0] == stored[1] == ([min(3, teaching)] if teaching else [])


@given(
    outcome=st.sampled_from(OutcomeKind),
    completion=st.sampled_from(["", "hi"]),
    final_text=st.sampled_from([None, "", "hi", "hello"]),
    rating=st.one_of(st.none(), st.integers(1, 5)),
)
def test_what_is_kept_is_what_an_example_comes_of(outcome, completion, final_text, rating):
    kind = lesson(outcome, completion, final_text, rating)
    signal = Signal("say hi", completion, outcome, final_text, rating)
    example = signal.example()
    assert (example is not None) is (kind is not None and learns_from(LEARNED, kind))
    if example is not None:
        assert (example.kind, example.completion != "") == (kind, True)


def test_what_ingest_keeps_is_what_every_plan_learns_by():
    assert TrainingPlan.__dataclass_fields__["objective"].default is LEARNED
