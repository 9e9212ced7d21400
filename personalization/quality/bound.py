"""The honest upper bound: the best plain LoRA without privacy, of several rates and lengths.

Which one is best is decided by users that are neither trained on nor measured on, so the bound is no luckier than what
it is compared with.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from personalization.quality.likelihood import likelihood
from personalization.quality.served import served
from personalization.training.engine.decoder import FrozenDecoder
from personalization.training.engine.encoding import Encoder
from personalization.training.engine.plain_lora import PlainLora, PlainRecipe, without_frozen
from personalization.training.engine.portable import export_adapter
from personalization.training.jobs.job import Example, UserExamples

VERSION = "1"  # raise it when training changes: adapters kept before are not used any more
SCORES = "scores.json"
# Users (at least) and by how much the lengths grow: few users need more passes for as many steps.
PASSES = ((200, 1), (75, 2), (0, 4))


@dataclass(frozen=True, kw_only=True)
class Bound:
    """One best plain LoRA.

    Attributes:
        adapter: its folder.
        recipe: of the best.
        tried: rate, epochs and loss on the choosing users of all that were tried.
    """

    adapter: Path
    recipe: PlainRecipe
    tried: tuple[dict[str, float], ...]


@dataclass
class Bounds:
    """Trains and keeps plain LoRAs of one tenant.

    Attributes:
        decoder: the plain base.
        encoder: its tokenizer.
        base_model: where it lies; its last part goes into exported adapters and the digest.
        choosing: users by whom the best is chosen.
        folder: where adapters are kept.
        rates: tried at the middle length with the first number of users asked for; the best one is kept.
        passes: lengths, for many users.
        max_tokens: truncation of one interaction.
        say: told what happens.
    """

    decoder: FrozenDecoder
    encoder: Encoder
    base_model: Path
    choosing: Sequence[UserExamples]
    folder: Path
    rates: tuple[float, ...]
    passes: tuple[int, ...]
    max_tokens: int
    say: Callable[[str], None] = lambda _: None
    _rate: float | None = None
    _trainer: PlainLora | None = None
    _found: dict[str, Bound] = field(default_factory=dict)

    def best(self, users: Sequence[UserExamples]) -> Bound:
        """Return the best plain LoRA of these users."""
        examples = [example for user in users for example in user.examples]
        name = self._name(examples, None)
        if name not in self._found:
            self._found[name] = self._search(examples, passes_of(self.passes, len(users)))
        return self._found[name]

    def _search(self, examples: list[Example], passes: tuple[int, ...]) -> Bound:
        tried: dict[tuple[float, int], tuple[float, Path, PlainRecipe]] = {}

        def attempt(rate: float, epochs: int) -> float:
            recipe = PlainRecipe(rate=rate, epochs=epochs, max_tokens=self.max_tokens)
            adapter = self._trained(examples, recipe)
            tried[rate, epochs] = self._score(adapter), adapter, recipe
            self.say(
                f"plain LoRA, {epochs} epochs at {rate:g}: {tried[rate, epochs][0]:.3f} on the choosing users"
            )
            return tried[rate, epochs][0]

        middle = passes[len(passes) // 2]
        if self._rate is None:
            self._rate = min(self.rates, key=lambda rate: attempt(rate, middle))
        for epochs in passes:
            if (self._rate, epochs) not in tried:
                attempt(self._rate, epochs)
        _, adapter, recipe = min(tried.values(), key=lambda one: one[0])
        told = tuple(
            {"rate": rate, "epochs": epochs, "choosing_loss": loss}
            for (rate, epochs), (loss, _, _) in tried.items()
        )
        return Bound(adapter=adapter, recipe=recipe, tried=told)

    def _trained(self, examples: list[Example], recipe: PlainRecipe) -> Path:
        adapter = self.folder / self._name(examples, recipe)
        if not adapter.is_dir():
            began = time.monotonic()
            self._trainer = self._trainer or PlainLora(self.decoder, self.encoder)

            def progress(step: int, steps: int) -> None:
                if step % 20 == 0:
                    self.say(f"plain LoRA: step {step} of {steps}, {time.monotonic() - began:.0f} s")

            vector, geometry = self._trainer.train(examples, recipe, progress)
            export_adapter(adapter, geometry, vector.double(), without_frozen(geometry), str(self.base_model))
        return adapter

    def _score(self, adapter: Path) -> float:
        kept = adapter / SCORES
        name = self._name([example for user in self.choosing for example in user.examples], None)
        scores: dict[str, Any] = json.loads(kept.read_text("utf-8")) if kept.is_file() else {}
        if name not in scores:
            with served(self.decoder, adapter) as model:
                scores[name] = likelihood(model, self.encoder, self.choosing, max_tokens=self.max_tokens).mean
            kept.write_text(json.dumps(scores), encoding="utf-8")
        return float(scores[name])

    def _name(self, examples: Sequence[Example], recipe: PlainRecipe | None) -> str:
        document = {
            "version": VERSION,
            "base": self.base_model.name,
            "recipe": None if recipe is None else asdict(recipe),
            "texts": [(example.prompt, example.completion) for example in examples],
        }
        return "plain-" + hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:24]


def passes_of(passes: tuple[int, ...], users: int) -> tuple[int, ...]:
    """Return the lengths that are tried with so many users."""
    factor = next(factor for least, factor in PASSES if users >= least)
    return tuple(factor * one for one in passes)
