"""What memory is worth: how often the right passage is found, when nothing is, how fast, and what a model makes of it.

    python tests/benchmarks/memory.py [--answers] [--json PATH]

Facts are made with public seeds: things with made-up names, people-like paraphrases, look-alikes, and off-topic
questions (``memory_questions``). The floor and the word gate are chosen on the development set alone; the held-out set,
of other topics, wordings and names, is only reported. ``--answers`` also asks the bundled 135M model, without memory,
with it, and with a style adapter that did or did not rehearse notes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from personalization.memory import documents
from personalization.memory.documents import Place, prepared
from personalization.memory.embedding import bundled_embedder
from personalization.memory.ranking import WordIndex, best, fused, names_occur, words_of
from personalization.memory.rendering import note, with_notes
from personalization.memory.sealing import MemoryKeys
from personalization.memory.search import MemorySearch, SearchRules
from personalization.memory.values import Draft
from privacy.policy import versions as policies
from privacy.storage.session import open_engine, transaction
from streams.demo.environment import model_cache
from streams.storage import schema
from tests.benchmarks.memory_questions import DEVELOPMENT, HELD_OUT

KEYS = MemoryKeys(bytes(32))
SITES = DEVELOPMENT.sites
FLOORS = (0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)
NEAR = -1  # stands for the topic of a question that no document answers
GATES = (0.0, 0.25, 0.4, 0.5, 0.6, 0.75)


def sites_facts(questions):
    """Return (document id, text) of every topic at every site, with values of their own: look-alikes of each other."""
    rng = random.Random(1)
    return [
        (
            f"{site.lower()}/{number}",
            questions.told.format(site=site, text=topic.format(v=rng.randint(3, 95))),
        )
        for site in questions.sites
        for number, topic in enumerate(questions.topics)
    ]


def recall(questions):
    """Return how often the right passage comes first, by words, by meaning and fused, and what reaches which floor.

    Paraphrases of sixteen sentences, and questions for sixty part numbers, which no meaning tells apart.
    """
    embedder = bundled_embedder()
    texts = [topic.format(v=7) for topic in questions.topics]
    asked = [(number, one) for number, several in enumerate(questions.topics.values()) for one in several]
    told, right = _hits(embedder, texts, asked)
    parts = questions.parts()
    exact, _ = _hits(
        embedder, [told for told, _ in parts], [(number, asked) for number, (_, asked) in enumerate(parts)]
    )
    vectors = embedder.embed(texts)
    best_of = {
        name: [float((vectors @ embedder.embed([question])[0]).max()) for question in several]
        for name, several in (("off_topic", questions.off_topic), ("near", questions.near))
    }
    floors = {
        f"{floor:.2f}": {
            "right_above": round(float(np.mean(np.array(right) >= floor)), 3),
            **{
                f"{name}_above": round(float(np.mean(np.array(found) >= floor)), 3)
                for name, found in best_of.items()
            },
        }
        for floor in FLOORS
    }
    return {"paraphrases": told, "part_numbers": exact, "floors": floors}


def chosen(questions):
    """Return the floor and the word gate that suit a set best: never asked of the held-out one.

    A setting is worth the share of paraphrases whose first passage is the right one, plus the share of off-topic
    questions that find nothing; of equals the one wins at which most near questions find nothing, then the smallest.
    """
    embedder = bundled_embedder()
    texts = [topic.format(v=7) for topic in questions.topics]
    vectors = embedder.embed(texts)
    words = WordIndex([dict.fromkeys(words_of(text), 1) for text in texts])
    alive = np.ones(len(texts), bool)
    asked = [
        *((number, one) for number, several in enumerate(questions.topics.values()) for one in several),
        *((None, one) for one in questions.off_topic),
        *((NEAR, one) for one in questions.near),
    ]
    seen = []
    for number, question in asked:
        query = words_of(question)
        similar = vectors @ embedder.embed([question])[0]
        by_words = [(row, words.known(query, row, alive)) for row in best(words.scores(query, alive))]
        names = [names_occur(question, text) for text in texts]
        seen.append((number, similar, by_words, best(similar), names))
    told = {}
    for floor in FLOORS:
        for gate in GATES:
            right = nothing = near = 0
            for number, similar, by_words, by_meaning, names in seen:
                ranking = fused([row for row, share in by_words if share >= gate], by_meaning)
                first = next((row for row in ranking if names[row] and similar[row] >= floor), None)
                right += number not in (None, NEAR) and first == number
                nothing += number is None and first is None
                near += number == NEAR and first is None
            paraphrases = len(asked) - len(questions.off_topic) - len(questions.near)
            worth = right / paraphrases + nothing / len(questions.off_topic)
            told[floor, gate] = (round(worth, 9), near)
    floor, gate = min(told, key=lambda pair: (-told[pair][0], -told[pair][1], pair))
    released = SearchRules()
    return {
        "floor": floor,
        "word_floor": gate,
        "worth": told[floor, gate],
        "worth_as_released": told[released.floor, released.word_floor],
        "worth_of_floors_at_the_released_gate": {
            f"{floor:.2f}": told[floor, released.word_floor] for floor in FLOORS
        },
    }


def _hits(embedder, texts, asked):
    vectors = embedder.embed(texts)
    words = WordIndex([dict.fromkeys(words_of(text), 1) for text in texts])
    alive = np.ones(len(texts), bool)
    hits = dict.fromkeys(("words", "meaning", "fused_ungated", "fused", "fused_in_3"), 0)
    right = []
    for number, question in asked:
        query = words_of(question)
        similar = vectors @ embedder.embed([question])[0]
        by_words, by_meaning = best(words.scores(query, alive)), best(similar)
        gated = [row for row in by_words if words.known(query, row, alive) >= SearchRules().word_floor]
        both = list(fused(gated, by_meaning))
        hits["words"] += by_words[:1] == [number]
        hits["meaning"] += by_meaning[:1] == [number]
        hits["fused_ungated"] += list(fused(by_words, by_meaning))[:1] == [number]
        hits["fused"] += both[:1] == [number]
        hits["fused_in_3"] += number in both[:3]
        right.append(float(similar[number]))
    return {
        "questions": len(asked),
        **{name: round(count / len(asked), 3) for name, count in hits.items()},
    }, right


class Installation:
    """A database in a folder with one tenant."""

    def __init__(self, folder, embedder):
        url = f"sqlite:///{folder}/memory.db"
        schema.upgrade(url)
        self.engine, self.embedder = open_engine(url), embedder
        with transaction(self.engine) as session:
            policies.register_tenant(session, "acme", actor="bench", now=datetime.now(UTC))
        self.search = MemorySearch(self.engine, KEYS, embedder, rules=SearchRules())

    def add(self, facts):
        drafts = [Draft(document_id=name, title="Handbook", text=text) for name, text in facts]
        place = Place(tenant_id="acme", collection="default", actor="bench", now=datetime.now(UTC))
        cut = prepared(drafts, self.embedder)
        with transaction(self.engine) as session:
            documents.add(session, KEYS, place, cut)

    def remove(self, *names):
        place = Place(tenant_id="acme", collection="default", actor="bench", now=datetime.now(UTC))
        with transaction(self.engine) as session:
            documents.remove(session, KEYS, place, names)

    def find(self, question):
        return self.search.find("acme", "default", question, datetime.now(UTC))


def end_to_end(folder, asked_of):
    """Return shares over look-alike sites: right passage, abstained on unknown sites and off-topic, stale, deleted."""
    here = Installation(folder, bundled_embedder())
    facts = dict(sites_facts(asked_of))
    sites, count = asked_of.sites, len(asked_of.topics)
    here.add(facts.items())
    counts = dict.fromkeys(("right_now", "wrong", "nothing"), 0)
    questions = [
        (f"{site.lower()}/{number}", asked_of.asked.format(question=question.rstrip("?"), site=site))
        for site in sites
        for number, asked in enumerate(asked_of.topics.values())
        for question in asked[:2]
    ]
    for name, question in questions:
        passages = here.find(question).passages
        told = passages[0].document.document_id if passages else None
        counts["right_now" if told == name else "nothing" if told is None else "wrong"] += 1
    unknown = [question.replace(sites[0], asked_of.nowhere) for _, question in questions[: 2 * count]]
    abstained = np.mean([not here.find(question).passages for question in unknown])
    off = np.mean([not here.find(question).passages for question in asked_of.off_topic])
    near = np.mean([not here.find(question).passages for question in asked_of.near])
    named = [asked_of.asked.format(question=one.rstrip("?"), site=sites[0]) for one in asked_of.near]
    near_named = np.mean([not here.find(question).passages for question in named])
    changed = {
        name: f"Since May: {text}" for name, text in facts.items() if name.startswith(f"{sites[0].lower()}/")
    }
    here.add(changed.items())
    first = questions[: 2 * count]
    after = [here.find(question).passages for _, question in first]
    stale = sum(
        one.document.document_id in changed and not one.chunk.text.startswith("Since May: ")
        for found in after
        for one in found
    )
    gone = f"{sites[1].lower()}/"
    here.remove(*(f"{gone}{number}" for number in range(count)))
    second = questions[2 * count : 4 * count]
    deleted = sum(any(one.document.document_id.startswith(gone) for one in here.find(question).passages)
                  for _, question in second)  # fmt: skip
    total = len(questions)
    return {
        "questions": total,
        **{name: round(count / total, 3) for name, count in counts.items()},
        "unknown_site_abstained": round(float(abstained), 3),
        "off_topic_abstained": round(float(off), 3),
        "near_abstained": round(float(near), 3),
        "near_of_a_site_abstained": round(float(near_named), 3),
        "stale": stale,
        "deleted_but_found": deleted,
    }


def speed(sizes):
    """Return seconds of one search over many passages, with random vectors and words (the encoder's own time apart)."""
    rng = np.random.default_rng(0)
    told = {}
    words = [f"w{number}" for number in range(20_000)]
    weights = 1.0 / np.arange(1, len(words) + 1)
    weights /= weights.sum()
    for size in sizes:
        vectors = rng.standard_normal((size, 384), np.float32)
        drawn = rng.choice(len(words), (size, 60), p=weights)
        start = time.perf_counter()
        index = WordIndex([{words[at]: 1 for at in row} for row in drawn])
        built = time.perf_counter() - start
        alive = np.ones(size, bool)
        times = []
        for _ in range(20):
            query = [words[at] for at in rng.choice(len(words), 8, p=weights)]
            start = time.perf_counter()
            fused(best(index.scores(query, alive)), best(vectors @ vectors[0]))
            times.append(time.perf_counter() - start)
        told[str(size)] = {
            "index_s": round(built, 2),
            "search_ms_median": round(1e3 * float(np.median(times)), 2),
            "search_ms_worst": round(1e3 * max(times), 2),
        }
    embedder = bundled_embedder()
    times = []
    for _ in range(20):
        start = time.perf_counter()
        embedder.embed(["How long after approval is an invoice of the Aldora site paid?"])
        times.append(time.perf_counter() - start)
    told["encode_question_ms_median"] = round(1e3 * float(np.median(times)), 2)
    return told


def answers(count, base):
    """Return what the bundled model makes of notes: base, and style adapters that did or did not rehearse them."""
    import torch

    from personalization.planning.plan import PerformanceFlags
    from personalization.training.base.directory import resolve_base
    from personalization.training.engine.families import Geometry
    from personalization.training.engine.loading import loaded_base
    from personalization.training.styles.foundation import merged
    from personalization.training.styles.public_part import PublicPart
    from tests.fakes.tiny_models import damped_plan, style_card

    torch.manual_seed(0)
    flags = PerformanceFlags(device="cpu")
    decoder, encoder = loaded_base(resolve_base(base, model_cache()), flags)
    plan = damped_plan(rank=16, max_tokens=96, steps=2)
    private = Geometry.of_plan(plan, decoder.shapes, decoder.layer_count)
    card = style_card()
    cases = _cases(count)
    told = {"base": _asked(decoder, encoder, cases) | _held_out(decoder, encoder, card)}
    for name, notes in (("style_adapter", False), ("style_adapter_with_notes", True)):
        start = time.perf_counter()
        maker = PublicPart(decoder, encoder, private, max_tokens=plan.max_tokens, half=False)
        factors, facts = maker.train(card, lambda *_: None, notes=notes)
        own = merged(decoder, factors, private.scaling)
        told[name] = {
            **_asked(own, encoder, cases),
            **_held_out(own, encoder, card),
            "loss_after": facts.loss_after,
            "steps": facts.steps,
            "training_s": round(time.perf_counter() - start, 1),
        }
    return told


def _held_out(decoder, encoder, card, count=24):
    """Return the loss (nats a token) of answers to questions of another seed, and the share without a slip."""
    import torch

    from personalization.styles.noted import noted_pairs
    from personalization.training.styles.public_part import NOTED_TOKENS

    losses, whole = [], []
    for pair in noted_pairs(card, count=count, seed=9):
        row = encoder.row(pair.prompt, pair.answer, NOTED_TOKENS)
        with torch.no_grad():
            logits = decoder.model(torch.tensor([row.tokens[:-1]])).logits[0, row.first_label - 1 :]
        wanted = torch.tensor(row.tokens[row.first_label :])
        losses.append(float(torch.nn.functional.cross_entropy(logits.float(), wanted)))
        whole.append(bool((logits.argmax(-1) == wanted).all()))
    return {"held_out_loss": round(float(np.mean(losses)), 3), "held_out_exact": _share(whole)}


def _cases(count):
    rng = random.Random(3)
    day = datetime(2026, 3, 2, tzinfo=UTC).date()
    cases = []
    for number in range(count):
        site = SITES[number % len(SITES)]
        topic, asked = rng.choice(list(DEVELOPMENT.topics.items()))
        value, other = rng.sample(range(11, 95), 2)
        right = note("Handbook", "", f"At the {site} site: {topic.format(v=value)}", day)
        wrong = note(
            "Handbook", "", f"At the {SITES[number % len(SITES) - 1]} site: {topic.format(v=other)}", day
        )
        cases.append(
            (f"{asked[1].rstrip('?')} at the {site} site? Give the number.", value, other, right, wrong)
        )
    return cases


def _asked(decoder, encoder, cases):
    plain = [_said(decoder, encoder, question) for question, *_ in cases]
    noted = [_said(decoder, encoder, with_notes(question, [right])) for question, _, _, right, _ in cases]
    crowd = [
        _said(decoder, encoder, with_notes(question, [wrong, right]))
        for question, _, _, right, wrong in cases
    ]
    values = [str(value) for _, value, *_ in cases]
    return {
        "value_without_notes": _share(value in said for value, said in zip(values, plain, strict=True)),
        "value_with_note": _share(value in said for value, said in zip(values, noted, strict=True)),
        "value_with_look_alike": _share(value in said for value, said in zip(values, crowd, strict=True)),
        "style_without_notes": _share(said.startswith("[DONE]") for said in plain),
        "style_with_note": _share(said.startswith("[DONE]") for said in noted),
        "example": noted[0],
    }


def _share(found):
    return round(float(np.mean(list(found))), 3)


def _said(decoder, encoder, prompt, tokens=20):
    import torch

    before = torch.tensor([encoder.prompt(prompt)])
    with torch.no_grad():
        out = decoder.model.generate(
            before,
            attention_mask=torch.ones_like(before),
            max_new_tokens=tokens,
            do_sample=False,
            pad_token_id=0,
        )
    return encoder.tokenizer.decode(out[0, before.shape[1] :], skip_special_tokens=True).strip()


def rows_of(told):
    """Return a row for each figure that says what memory is worth; those of what must never be found have a must."""
    rows = []

    def add(name, value, unit, must=None, *, ok=None):
        rows.append({"name": name, "value": value, "unit": unit, "must": must, "ok": ok})

    for which in ("development", "held_out"):
        if which not in told:
            continue
        found = told[which]["end_to_end"]
        for name in ("right_now", "wrong", "nothing", "unknown_site_abstained", "off_topic_abstained"):
            add(f"{which}: {name}", found[name], "share of questions")
        for name in ("stale", "deleted_but_found"):
            add(f"{which}: {name}", found[name], "passages", "0", ok=found[name] == 0)
        add(
            f"{which}: paraphrases, first",
            told[which]["recall"]["paraphrases"]["fused"],
            "share of questions",
        )
    for size, seconds in (told.get("speed") or {}).items():
        if isinstance(seconds, dict):
            add(f"search of {size} passages, median", seconds["search_ms_median"], "ms")
        else:
            add("vector of a question, median", seconds, "ms")
    for arm, found in told.get("answers", {}).items():
        for name in ("value_without_notes", "value_with_note", "value_with_look_alike", "style_with_note"):
            add(f"{arm}: {name}", found[name], "share of answers")
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--answers", action="store_true", help="also ask the bundled model (minutes)")
    parser.add_argument("--only-answers", action="store_true")
    parser.add_argument("--count", type=int, default=24, help="questions to the model in each arm")
    parser.add_argument("--base", default="smollm2-135m-instruct", help="a directory, or a bundled model")
    parser.add_argument(
        "--sizes", type=int, nargs="*", default=[10_000, 100_000], help="passages in the speed test"
    )
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    given = parser.parse_args()
    told = {}
    if not given.only_answers:
        told = {"chosen_on_development": chosen(DEVELOPMENT)}
        for name, questions in (("development", DEVELOPMENT), ("held_out", HELD_OUT)):
            with tempfile.TemporaryDirectory() as folder:
                told[name] = {"recall": recall(questions), "end_to_end": end_to_end(folder, questions)}
        told["speed"] = speed(given.sizes) if given.sizes else None
    if given.answers or given.only_answers:
        told["answers"] = answers(given.count, given.base)
    document = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "settings": {"base": given.base, "count": given.count, "sizes": given.sizes},
        "rows": rows_of(told),
        "measured": told,
    }
    text = json.dumps(document, indent=1)
    print(text)
    if given.json:
        given.json.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
