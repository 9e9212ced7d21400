"""Ask the server on behalf of held-out users and judge by rules, with intervals over users."""

from __future__ import annotations

from collections import defaultdict
from statistics import fmean
from typing import TYPE_CHECKING, Protocol

from personalization.quality.intervals import difference_interval, mean_interval
from streams.demo.recipes.values import BASE, Measure, SideBySide, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from personalization.quality.intervals import Interval
    from streams.demo.recipes.people import Question
    from streams.demo.recipes.values import Rule

ANSWER_TOKENS = 36
AT_ONCE = 32  # prompts of one request, which the server answers in one batch
SHOWN = 2  # examples of each line
KEPT_WITHIN = 0.05  # a share that must not be lost may fall by so much
LOSS = "loss on what they wrote (nats per token)"


class Answering(Protocol):
    """Whom prompts are asked of (``streams.demo.serving_client.ServingClient`` and engines at the edge)."""

    def answers(self, prompts: Sequence[str], model: str | None, *, max_new_tokens: int) -> list[str]:
        """Return the answer to each prompt; ``None`` asks the base model."""


class Losing(Protocol):
    """Who knows how surprising a text is to a model."""

    def losses(self, pairs: Sequence[tuple[str, str]], model: str | None) -> list[float]:
        """Return the mean loss per token of each (prompt, completion)."""


def answers_of(
    serving: Answering,
    prompts: Sequence[str],
    model: str | None,
    *,
    tokens: int = ANSWER_TOKENS,
    on_progress: Callable[[int], None] = lambda _: None,
) -> list[str]:
    """Return the answers of one model, asked in several requests; ``on_progress`` gets how many are there."""
    found: list[str] = []
    for at in range(0, len(prompts), AT_ONCE):
        found += serving.answers(prompts[at : at + AT_ONCE], model, max_new_tokens=tokens)
        on_progress(len(found))
    return [text.strip() for text in found]


def measures_of(
    line: str,
    rules: Sequence[Rule],
    questions: Sequence[Question],
    answers: Mapping[str, Sequence[str]],
) -> tuple[Measure, ...]:
    """Return what the rules say of each arm's answers.

    Args:
        line: whose they are, for people.
        rules: each becomes one measure.
        questions: of held-out users.
        answers: by arm, in the order of the questions; the base first, what is judged last.
    """
    return tuple(
        measure(
            line,
            rule.name,
            questions,
            {
                arm: [float(rule.holds(text, asked)) for text, asked in zip(given, questions, strict=True)]
                for arm, given in answers.items()
            },
            kept=rule.kept,
        )
        for rule in rules
    )


def loss_measure(
    line: str, questions: Sequence[Question], serving: Losing, models: Mapping[str, str | None]
) -> Measure:
    """Return the loss of what held-out users wrote, by model; less is better.

    Args:
        line: whose they are, for people.
        questions: with what was written.
        serving: asked for losses.
        models: served name by arm; the base first.
    """
    pairs = [(asked.prompt, asked.written) for asked in questions]
    losses = {arm: serving.losses(pairs, model) for arm, model in models.items()}
    return measure(line, LOSS, questions, losses, share=False)


def measure(
    line: str,
    name: str,
    questions: Sequence[Question],
    values: Mapping[str, Sequence[float]],
    *,
    kept: bool = False,
    share: bool = True,
) -> Measure:
    """Return means over users with intervals, and what the difference between the last arm and the first says.

    Args:
        line: whose it is, for people.
        name: what the values say.
        questions: in the order of the values.
        values: by arm; the base first.
        kept: whether nothing may be lost rather than something gained.
        share: more is better; of losses less is.
    """
    by_user = {arm: _per_user(questions, of_arm) for arm, of_arm in values.items()}
    first, last = next(iter(by_user.values())), list(by_user.values())[-1]
    gain = difference_interval(last, first) if share else difference_interval(first, last)
    return Measure(
        line=line,
        name=name,
        arms={arm: mean_interval(of_arm) for arm, of_arm in by_user.items()},
        gain=gain,
        users=len(first),
        prompts=len(questions),
        verdict=_verdict(gain, kept=kept),
        share=share,
    )


def side_by_side(
    line: str, questions: Sequence[Question], answers: Mapping[str, Sequence[str]], *, shown: int = SHOWN
) -> tuple[SideBySide, ...]:
    """Return the first questions with each arm's answer."""
    return tuple(
        SideBySide(
            line=line,
            prompt=asked.prompt,
            written=asked.written,
            answers={arm: given[number] for arm, given in answers.items()},
        )
        for number, asked in enumerate(questions[:shown])
    )


def arms(**models: str | None) -> dict[str, str | None]:
    """Return models by arm with the base in front."""
    return {BASE: None, **models}


def _per_user(questions: Sequence[Question], values: Sequence[float]) -> list[float]:
    found: dict[str, list[float]] = defaultdict(list)
    for asked, value in zip(questions, values, strict=True):
        found[asked.user_id].append(value)
    return [fmean(of_user) for of_user in found.values()]


def _verdict(gain: Interval, *, kept: bool) -> Verdict:
    if kept:
        return Verdict.KEPT if gain.value >= -KEPT_WITHIN else Verdict.WORSE
    if gain.low > 0:
        return Verdict.BETTER
    return Verdict.WORSE if gain.high < 0 else Verdict.NO_EFFECT
