"""Releases with a style card, as a round makes them, and what a card is worth without any weights.

The vote is the one that the policy's plan charges beside training; card, public part and private part are made by the
code of a round. A prompt or a forced opening needs no adapter at all: an adapter has to be worth more than they are.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jinja2.sandbox import ImmutableSandboxedEnvironment

from personalization.adapters.factors import blend, remembered_share
from personalization.planning.plan import PerformanceFlags, TrainingPlan
from personalization.quality.answers import Answer
from personalization.styles.abstraction import COPY, NUMBER, TEXT
from personalization.styles.card import StyleCard
from personalization.styles.discovery import discover
from personalization.styles.frames import Frame, closings, is_poor, openings
from personalization.styles.prompting import template_of
from personalization.styles.slots import filled
from personalization.styles.votes import StyleText, UserTexts
from personalization.training.engine.decoder import FrozenDecoder
from personalization.training.engine.encoding import Encoder
from personalization.training.jobs.job import (
    Progress,
    PublicPartFacts,
    TenantJob,
    TrainingJob,
    UserExamples,
)
from personalization.training.run.fused import train_on
from privacy.mechanisms.partition_selection import PartitionSelection

_SMALLEST_NUMBER, _LARGEST_NUMBER = 100, 19_999


@dataclass(frozen=True, kw_only=True)
class CardRelease:
    """One release of a tenant with a card.

    Attributes:
        card: what the vote found.
        adapter: a portable LoRA folder: the public part and the private one.
        public_part: what is known of the public part; None where the card was too poor for one.
        seconds: discovery and training together.
        before: releases of the line that are averaged in, where it remembers.
    """

    card: StyleCard
    adapter: Path
    public_part: PublicPartFacts | None
    seconds: float
    before: int = 0

    def to_document(self) -> dict[str, Any]:
        """Return what the card says, JSON-ready and short."""
        return {
            "voters": self.card.voters,
            "noise_multiplier": self.card.noise_multiplier,
            "entries": len(self.card.entries),
            "poor": is_poor(self.card),
            "openings": {one.text: round(one.share, 3) for one in openings(self.card)},
            "closings": {one.text: round(one.share, 3) for one in closings(self.card)},
            "public_part": None if self.public_part is None else self.public_part.to_document(),
        }


@dataclass(frozen=True, kw_only=True)
class CardReleases:
    """Makes releases with cards on a base that is loaded.

    Attributes:
        decoder: the plain base.
        encoder: its tokenizer.
        base_model: where it lies.
        flags: device and threads.
        folder: where adapters go; one of a name replaces the one before.
    """

    decoder: FrozenDecoder
    encoder: Encoder
    base_model: Path
    flags: PerformanceFlags
    folder: Path

    def release(
        self,
        users: Sequence[UserExamples],
        plan: TrainingPlan,
        vote: PartitionSelection,
        *,
        key: bytes,
        say: Callable[[Progress], None] = lambda _: None,
        name: str = "card",
        before: CardRelease | None = None,
    ) -> CardRelease:
        """Vote, make the public part of the card, train the private part on it, and export both as one adapter.

        Args:
            users: who votes and is trained on.
            plan: of the private part.
            vote: what the same policy charges beside it.
            key: 32 bytes for the noise of both; fixed, so that a benchmark repeats.
            say: told the progress.
            name: of the adapter's folder.
            before: the line's release before, where the policy asks to remember: both its parts are averaged in.
        """
        began = time.monotonic()
        card = discover(
            [texts_of(user) for user in users],
            vote,
            key[::-1],
            declared_users=len(users),
            voters=len(users),
        )
        count = 0 if before is None else before.before + 1
        tenant = TenantJob(
            job_key=name,
            plan=plan,
            users=tuple(users),
            noise_key=key,
            card=card,
        )
        job = TrainingJob(
            base_model=str(self.base_model), tenants=(tenant,), output=self.folder, flags=self.flags
        )
        (result,) = train_on(self.decoder, self.encoder, job, say)
        adapter, part = result.adapter, result.public_part
        if before is not None:
            adapter = adapter.with_name(f"{adapter.name}-blended")
            if part is not None and before.public_part is not None:
                part = replace(part, remembered=before.public_part.remembered + 1)
            blend(
                before.adapter,
                result.adapter,
                adapter,
                share=remembered_share(count),
                remembered=0 if part is None else part.remembered,
            )
        return CardRelease(
            card=card,
            adapter=adapter,
            public_part=part,
            seconds=time.monotonic() - began,
            before=count,
        )


def texts_of(user: UserExamples) -> UserTexts:
    """Return a user's answers as the vote reads them."""
    return UserTexts(
        texts=tuple(
            StyleText(prompt=one.prompt, final=one.completion, shown=one.shown) for one in user.examples
        )
    )


def card_prompts(card: StyleCard, prompts: Sequence[str]) -> list[str]:
    """Return prompts as the card's template has them."""
    template = ImmutableSandboxedEnvironment(keep_trailing_newline=True).from_string(template_of(card))
    return [template.render(prompt=prompt) for prompt in prompts]


def forced_openings(card: StyleCard, prompts: Sequence[str], *, seed: int = 0) -> list[str]:
    """Return an opening for each prompt, drawn by the card's shares, its slots filled as code without a model can.

    A frame ends where words of the answer's own content would stand, and before a space, which the model's next token
    brings along.
    """
    drawn = random.Random(seed)  # noqa: S311  a benchmark's draws
    frames = openings(card)
    return [_filled(_drawn(frames, drawn).split(TEXT)[0], prompt, drawn).rstrip() for prompt in prompts]


def forced_closings(
    card: StyleCard, prompts: Sequence[str], answers: Sequence[Answer], *, seed: int = 0
) -> list[Answer]:
    """Return answers with a closing appended where they do not end in it already, drawn by the card's shares."""
    drawn = random.Random(seed)  # noqa: S311  as above
    frames = closings(card)
    closed = []
    for prompt, answer in zip(prompts, answers, strict=True):
        closing = _filled(_drawn(frames, drawn).split(TEXT)[-1], prompt, drawn)
        body = answer.text.split("\n")[0]
        closed.append(Answer(body if body.endswith(closing) else body + closing, answer.ended))
    return closed


def _drawn(frames: Sequence[Frame], drawn: random.Random) -> str:
    if not frames:
        return ""
    return drawn.choices([one.text for one in frames], [max(one.share, 1e-9) for one in frames])[0]


def _filled(frame: str, prompt: str, drawn: random.Random) -> str:
    def filling(slot: str) -> str:
        if slot == NUMBER:
            return str(drawn.randint(_SMALLEST_NUMBER, _LARGEST_NUMBER))
        return _name_in(prompt) if slot == COPY else ""

    return filled(frame, filling)


def _name_in(prompt: str) -> str:
    """Return the words of a prompt that an answer most likely repeats: what its last line names after a mark."""
    last = prompt.strip().split("\n")[-1]
    for mark in (": ", "- "):
        last = last.split(mark)[-1]
    return last
