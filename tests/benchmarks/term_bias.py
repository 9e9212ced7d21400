"""Terms as a bias on tokens while answers are made, beside the two ways that are offered: what each gains and harms.

    python3 tests/benchmarks/term_bias.py [--base DIR] [--bias B …] [--notes N] [--json PATH]

Notes hold one name as it comes out wrong, and a bundled model of 135 million parameters is asked, greedily, to write
them again. *First* and *all* are what ``logit_bias`` of OpenAI's API can say: the same numbers at every step, for the
first or for every piece of the name. *In turn* is what only a decoder of one's own can do: after pieces of the name
the next one is favoured, and the first one elsewhere until the name was said. The name is known from the prompt, as for
a glossary. Told apart: the share of answers that say the name; that say it thrice or more; that hold a piece of it in
another word, which the note does not have; the share of the note's other words that the answer keeps.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from transformers import AutoModelForCausalLM, LogitsProcessor, LogitsProcessorList

from personalization.training.base.directory import resolve_base
from personalization.training.engine.encoding import Encoder
from personalization.training.engine.favoured import FavouredNames
from streams.client.terms import Terms
from streams.gateway.terming import glossary
from tests.benchmarks.terms import NAMES

NOTES = (
    "the team moved {} to the new cluster last week and nobody noticed",
    "we agreed that {} stays until the budget for next year is known",
    "after the call about {} two customers asked when it will be fixed",
)
ASKED = "Write this note again as one clean sentence: {}"
LIMIT = 32
BATCH = 13


class Favour(LogitsProcessor):
    """Adds to the scores of pieces of each row's name, in one of three ways."""

    def __init__(self, names: list[list[list[int]]], bias: float, way: str, prompt_length: int) -> None:
        self._names, self._bias, self._way = names, bias, way
        self._in_turn = [FavouredNames(spellings, bias, prompt_length) for spellings in names]

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        for row, spellings in enumerate(self._names):
            if self._way == "in turn":
                scores[row] = self._in_turn[row](input_ids[row : row + 1], scores[row : row + 1])[0]
                continue
            pieces = {one for tokens in spellings for one in (tokens[:1] if self._way == "first" else tokens)}
            scores[row, sorted(pieces)] += self._bias
        return scores


class Model:
    """The base with its tokenizer; answers are kept until they are asked again alike."""

    def __init__(self, directory: Path) -> None:
        self.encoder = Encoder.load(directory)
        self._model = AutoModelForCausalLM.from_pretrained(
            directory, local_files_only=True, dtype=torch.float32
        ).eval()

    def spellings(self, meant: str) -> list[list[int]]:
        """Return the tokens of a name within a sentence and at its beginning."""
        tokenizer = self.encoder.tokenizer
        return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (f" {meant}", meant)]

    def piece(self, token: int) -> str:
        return str(self.encoder.tokenizer.decode([token])).strip()

    @torch.no_grad()
    def answers(self, prompts: list[str], names: list[str], way: str, bias: float) -> list[str]:
        found: list[str] = []
        end = self.encoder.end_token
        for start in range(0, len(prompts), BATCH):
            rows = [self.encoder.prompt(text) for text in prompts[start : start + BATCH]]
            longest = max(map(len, rows))
            favour = Favour([self.spellings(one) for one in names[start : start + BATCH]], bias, way, longest)
            out = self._model.generate(
                input_ids=torch.tensor([[end] * (longest - len(row)) + list(row) for row in rows]),
                attention_mask=torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows]),
                max_new_tokens=LIMIT,
                do_sample=False,
                logits_processor=LogitsProcessorList([favour] if bias else []),
                eos_token_id=end,
                pad_token_id=end,
            )
            texts = self.encoder.tokenizer.batch_decode(out[:, longest:], skip_special_tokens=True)
            found += [str(text).strip() for text in texts]
        return found


def scores(model: Model, answers: list[str]) -> dict[str, float]:
    """Return the four shares, over as many cases as there are answers."""
    says, often, stumps, kept = [], [], [], []
    for answer, (note, meant, written) in zip(answers, cases(), strict=False):
        count = len(re.findall(rf"(?<!\w){re.escape(meant)}(?!\w)", answer))
        says.append(count > 0)
        often.append(count >= 3)
        begins = {model.piece(pieces[0]) for pieces in model.spellings(meant)}
        words = {word for word in re.findall(r"\w+", answer) if word not in note and word not in meant}
        stumps.append(any(word.startswith(begin) for word in words for begin in begins))
        others = [word for word in note.replace(written, "").split() if len(word) > 3]
        kept.append(statistics.fmean(word in answer for word in others))
    told = {"says_it": says, "thrice": often, "pieces_elsewhere": stumps, "kept": kept}
    return {name: statistics.fmean(values) for name, values in told.items()}


def cases() -> list[tuple[str, str, str]]:
    """Return (note, meant, written)."""
    return [(note.format(written), meant, written) for note in NOTES for meant, written in NAMES]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="smollm2-135m-instruct")
    parser.add_argument("--bias", type=float, nargs="*", default=[2.0, 4.0, 8.0])
    parser.add_argument("--ways", nargs="*", default=["first", "all", "in turn"])
    parser.add_argument("--notes", type=int, default=len(NOTES), help="of each name")
    parser.add_argument("--json", type=Path, default=None)
    given = parser.parse_args(arguments)
    model = Model(resolve_base(given.base, Path.home() / ".cache" / "discreet" / "models"))
    terms = Terms([(written, meant) for meant, written in NAMES])
    taken = cases()[: given.notes * len(NAMES)]
    names = [meant for _, meant, _ in taken]
    plain = [ASKED.format(note) for note, _, _ in taken]
    told = [f"{glossary(terms.within(prompt))}\n\n{prompt}" for prompt in plain]
    rows: dict[str, dict[str, float]] = {}

    def show(name: str, answers: list[str]) -> None:
        rows[name] = scores(model, answers)
        print(
            f"{name:<32}" + "  ".join(f"{key} {value:.2f}" for key, value in rows[name].items()), flush=True
        )

    whole = {model.piece(pieces[0]) for meant in names for pieces in model.spellings(meant)}
    print(f"{len(plain)} notes; first pieces of the names: {', '.join(sorted(whole))}")
    alone, with_glossary = model.answers(plain, names, "first", 0), model.answers(told, names, "first", 0)
    show("nothing", alone)
    show("put right", [terms.correct(one).text for one in alone])
    show("told in the prompt", with_glossary)
    show("told and put right", [terms.correct(one).text for one in with_glossary])
    for way in given.ways:
        for bias in given.bias:
            show(f"{way} +{bias:g}", model.answers(plain, names, way, bias))
    for bias in given.bias:
        steered = model.answers(told, names, "in turn", bias)
        show(f"told, in turn +{bias:g}", steered)
        show(f"told, in turn +{bias:g}, put right", [terms.correct(one).text for one in steered])
    if given.json is not None:
        given.json.write_text(json.dumps(rows, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
