"""One adapter, judged on users that training never saw: losses, answers, abilities, public text.

An adapter is a folder that any server loads; the judge knows nothing of how it was made. What it finds is compared
with the base, which is judged first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from personalization.adapters.decoding import PRESENCE_PENALTY
from personalization.quality.abilities.exam import Abilities, abilities
from personalization.quality.agreement import Ends, agreement, degenerate, openings_apart
from personalization.quality.answers import Answer, answers_to
from personalization.quality.data import texts
from personalization.quality.intervals import difference_interval, mean_interval
from personalization.quality.likelihood import Likelihood, likelihood
from personalization.quality.scores import chrf, expected_calibration_error
from personalization.quality.served import served
from personalization.training.engine.decoder import FrozenDecoder
from personalization.training.engine.encoding import Encoder
from personalization.training.jobs.job import UserExamples
from personalization.training.public.texts import unseen_users

SAMPLING_SEED = 11


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was found about one adapter.

    Attributes:
        likelihood: on held-out users.
        public: mean loss on each public text.
        abilities: None where they were not asked for.
        answers: greedy, to the judge's prompts; empty where none were asked for.
        document: all of it, JSON-ready.
    """

    likelihood: Likelihood
    public: list[float]
    abilities: Abilities | None
    answers: list[Answer]
    document: dict[str, Any]


class Judge:
    """Judges adapters of one tenant.

    Args:
        decoder: the plain base.
        encoder: its tokenizer.
        heldout: users that nothing was trained, tuned or chosen on.
        answers: how many of their prompts are answered.
        answer_tokens: of the longest answer.
        examples: how many answers stand in the document.
        max_tokens: truncation of one interaction.
        most_abilities: most questions and instructions; None asks all, 0 none.
    """

    def __init__(
        self,
        decoder: FrozenDecoder,
        encoder: Encoder,
        heldout: Sequence[UserExamples],
        *,
        answers: int,
        answer_tokens: int,
        examples: int,
        max_tokens: int,
        most_abilities: int | None,
    ) -> None:
        self._decoder = decoder
        self._encoder = encoder
        self._heldout = heldout
        self._limit = answer_tokens
        self._examples = examples
        self._max_tokens = max_tokens
        self._most_abilities = most_abilities
        every = texts(heldout)
        # One answer of each user first, then the others: prompts of many users before many of one.
        firsts = texts([UserExamples(examples=user.examples[:1]) for user in heldout])
        rest = texts([UserExamples(examples=user.examples[1:]) for user in heldout])
        self.asked = (firsts + rest)[:answers]
        self.ends = Ends.of(every)
        self.base = self.judge(None, fully=True)

    def judge(
        self, adapter: Path | None, *, fully: bool = True, without: frozenset[tuple[int, str]] = frozenset()
    ) -> Verdict:
        """Judge an adapter, or the base.

        Args:
            adapter: a portable LoRA folder; None judges the plain base.
            fully: drawn answers and abilities too; without it losses, greedy answers and public text.
            without: modules whose updates are left out.
        """
        with served(self._decoder, adapter, without=without) as model:
            found = likelihood(model, self._encoder, self._heldout, max_tokens=self._max_tokens)
            public = likelihood(model, self._encoder, unseen_users(), max_tokens=self._max_tokens).losses
            asked = [prompt for prompt, _ in self.asked]
            # As it is served: gateways and ``discreet serve`` decode adapters' answers with a penalty.
            penalty = 0.0 if adapter is None else PRESENCE_PENALTY
            greedy = self._answers(model, asked, presence_penalty=penalty)
            drawn = self._answers(model, asked, seed=SAMPLING_SEED, presence_penalty=penalty) if fully else []
            alike = self._answers(model, asked, presence_penalty=PRESENCE_PENALTY) if adapter is None else []
            able = None
            if fully and self._most_abilities != 0:
                able = abilities(model, self._encoder, most=self._most_abilities, presence_penalty=penalty)
        base = self.base if adapter is not None else None
        document: dict[str, Any] = {
            "nll": mean_interval(found.losses).to_document(),
            "by_place": found.by_place,
            "first_hits": found.first_hits,
            "ece": expected_calibration_error(found.confidences, found.correct),
            "gain": 0.0 if base is None else 1.0 - found.mean / base.likelihood.mean,
            "public_text_change": 0.0 if base is None else sum(public) / sum(base.public) - 1.0,
        }
        if greedy:
            document |= self.of_answers(greedy)
        if alike:
            document["degenerate_with_penalty"] = degenerate(alike, asked)
        if drawn:
            document["drawn_openings_apart"] = openings_apart(drawn, self.asked, self.ends)
            document["drawn_closings_apart"] = openings_apart(drawn, self.asked, self.ends, closing=True)
            document["drawn_degenerate"] = degenerate(drawn, asked)
        if able is not None:
            document["abilities"] = _abilities(able, None if base is None else base.abilities)
        return Verdict(likelihood=found, public=public, abilities=able, answers=greedy, document=document)

    def of_answers(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """Return what answers to the judge's prompts are worth, JSON-ready."""
        prompts = [prompt for prompt, _ in self.asked]
        pairs = [(answer.text, wanted) for answer, (_, wanted) in zip(answers, self.asked, strict=True)]
        return {
            "agreement": agreement(answers, self.asked, self.ends),
            "degenerate": degenerate(answers, prompts),
            "openings_apart": openings_apart(answers, self.asked, self.ends),
            "chrf": sum(chrf(*pair) for pair in pairs) / len(pairs),
            "examples": [
                {"prompt": prompt, "user": wanted, "answer": answer.text}
                for answer, (prompt, wanted) in list(zip(answers, self.asked, strict=True))[: self._examples]
            ],
        }

    def of_users(self) -> dict[str, Any]:
        """Return the same of what the users wrote themselves: what a perfect imitation would score."""
        return self.of_answers([Answer(wanted, ended=True) for _, wanted in self.asked])

    def answered(
        self, prompts: Sequence[str] | None = None, openings: Sequence[str] | None = None
    ) -> list[Answer]:
        """Return the plain base's greedy answers with other prompts or forced openings, one for each asked prompt."""
        return self._answers(
            self._decoder, prompts or [prompt for prompt, _ in self.asked], openings=openings
        )

    def _answers(
        self,
        model: FrozenDecoder,
        prompts: Sequence[str],
        *,
        seed: int | None = None,
        openings: Sequence[str] | None = None,
        presence_penalty: float = 0.0,
    ) -> list[Answer]:
        if not prompts:
            return []
        return answers_to(
            model,
            self._encoder,
            prompts,
            limit=self._limit,
            seed=seed,
            openings=openings,
            presence_penalty=presence_penalty,
        )


def _abilities(found: Abilities, base: Abilities | None) -> dict[str, Any]:
    document: dict[str, Any] = {
        "right": sum(found.right) / len(found.right),
        "belief": sum(found.belief) / len(found.belief),
        "kept": sum(found.kept) / len(found.kept),
    }
    if base is not None:
        for name in ("right", "belief", "kept"):
            change = difference_interval(getattr(found, name), getattr(base, name))
            document[f"{name}_change"] = change.to_document()
    return document
