"""Questions that are asked at once: what counts as the same answer, and what as another's."""

from __future__ import annotations

import threading

import pytest

from streams.client import Reading
from streams.errors import EngineLoadError, EngineMixesError
from streams.serving.engines.proving import MOST_TOGETHER, Alone, ask_together

READING = Reading(tokens=(1, 2, 3), points=((2, (5, 6)),))
VALUES = {
    None: [-1.0, -2.0],
    "a-1": [-3.0, -1.0],
    "a-2": [-2.0, -4.0],
    "a-3": [-1.5, -5.0],
    "a-4": [-4.0, -4.0],
}


def alone(name):
    return Alone(
        name=name, reading=READING, base=tuple(VALUES[None]), adapted=tuple(VALUES[name]), allowed=0.1
    )


class Mingling:
    """Waits until several have asked, then answers each; ``answer`` says how, in company or not."""

    def __init__(self, answer, company):
        self.answer = answer
        self.asked = []
        self._barrier = threading.Barrier(company)

    def next_log_probabilities(self, asked, *, name):
        self.asked.append((asked, name))
        try:
            self._barrier.wait(0.2)
        except threading.BrokenBarrierError:
            self._barrier.reset()
            return self.answer(name, False)
        return self.answer(name, True)


def right(name, _company):
    return list(VALUES[name])


def test_right_answers_pass_and_the_base_is_asked_beside_each_of_a_few():
    engine = Mingling(right, 2 * MOST_TOGETHER)
    ask_together(engine, [alone(name) for name in ("a-1", "a-2", "a-3", "a-4")])
    names = [name for _, name in engine.asked]
    assert sorted(map(str, names)) == sorted(map(str, [None] * 3 + ["a-1", "a-2", "a-3"]))
    assert all(asked == (READING,) for asked, _ in engine.asked)


def test_a_single_version_meets_the_base_in_a_batch_that_is_not_the_first():
    engine = Mingling(right, 4)
    ask_together(engine, [alone("a-1")])
    assert sorted(str(name) for _, name in engine.asked) == ["None", "None", "a-1", "a-1"]
    ask_together(engine, [])


@pytest.mark.parametrize(
    "answer",
    [
        lambda name, company: VALUES["a-2"] if company and name is None else VALUES[name],
        lambda name, company: VALUES[None] if company and name == "a-1" else VALUES[name],
        lambda name, company: VALUES["a-1"] if company and name == "a-2" else VALUES[name],
        lambda name, company: [float("nan")] * 2 if company and name is None else VALUES[name],
        lambda name, company: VALUES[name][: 1 if company else 2],
    ],
    ids=["base by an adapter", "adapter by the base", "adapter by another", "no number", "too few"],
)
def test_an_engine_that_is_right_alone_and_wrong_in_company_is_found_out(answer):
    with pytest.raises(EngineMixesError, match="--max-num-seqs 1"):
        ask_together(Mingling(answer, 4), [alone("a-1"), alone("a-2")])


@pytest.mark.parametrize(
    ("trials", "error"), [({1}, EngineLoadError), ({1, 3}, EngineMixesError), ({1, 2}, EngineMixesError)]
)
def test_two_of_three_trials_condemn_and_one_has_everything_asked_anew(trials, error):
    heard = []

    def answer(name, company):
        if company and name is None:
            heard.append(name)  # the base is asked twice in each trial
            if (len(heard) + 1) // 2 in trials:
                return VALUES["a-2"]
        return VALUES[name]

    with pytest.raises(error) as found:
        ask_together(Mingling(answer, 4), [alone("a-1"), alone("a-2")])
    assert type(found.value) is error


def test_one_that_is_wrong_alone_as_well_does_not_mix_and_is_not_trusted_either():
    with pytest.raises(EngineLoadError, match="a moment ago"):
        ask_together(Mingling(lambda _name, _company: VALUES[None], 4), [alone("a-1"), alone("a-2")])
