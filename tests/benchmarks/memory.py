"""What memory is worth: how often the right passage is found, when nothing is, how fast, and what a model makes of it.

    python tests/benchmarks/memory.py [--answers] [--json PATH]

Facts are made here with public seeds: things with made-up names, people-like paraphrases, look-alikes, and off-topic
questions. ``--answers`` also asks the bundled 135M model, without memory, with it, and with a style adapter that did or
did not rehearse notes.
"""

from __future__ import annotations

import argparse
import json
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
from personalization.memory.ranking import WordIndex, best, fused, words_of
from personalization.memory.rendering import note, with_notes
from personalization.memory.sealing import MemoryKeys
from personalization.memory.search import MemorySearch, SearchRules
from personalization.memory.values import Draft
from privacy.policy import versions as policies
from privacy.storage.session import open_engine, transaction
from streams.demo.environment import model_cache
from streams.storage import schema

KEYS = MemoryKeys(bytes(32))
TOPICS = {  # a sentence of a handbook, and three ways in which people ask for it
    "A refund is paid within {v} days after the parcel has come back.": (
        "how long until I get my money back", "When is a refund paid?", "we returned it, when do they pay"),
    "Holidays of more than {v} days in a row must be agreed on with the head of the team.": (
        "do I need permission for a long vacation", "Who agrees on holidays of several weeks?", "time off for weeks"),
    "The server room is cooled to {v} degrees, and alarms ring two degrees above.": (
        "how cold is it where the machines stand", "What temperature has the server room?", "when does the alarm ring"),
    "Travel by train is booked in second class for journeys below {v} hours.": (
        "may I book first class", "Which class for a short train ride?", "rail ticket comfort rules"),
    "Invoices are paid {v} days after they were approved by two people.": (
        "when do suppliers get paid", "How long after approval is an invoice paid?", "payment terms for bills"),
    "Passwords have at least {v} characters and are changed when somebody leaves the team.": (
        "how long must my login secret be", "What length does a password need?", "credentials policy"),
    "The canteen closes at {v} minutes past two and serves soup on Fridays.": (
        "until when can I have lunch", "When does the canteen close?", "is there soup at the end of the week"),
    "Laptops are replaced after {v} months, or when repair costs more than half.": (
        "when do I get a new computer", "After how many months is a laptop replaced?", "hardware renewal"),
    "Visitors wear a badge with the number {v} stripe and are met at the gate.": (
        "what do guests have to put on", "Which badge do visitors wear?", "who picks up people who come to see us"),
    "Overtime is paid from the hour number {v} of a week on, or taken as free time.": (
        "do I get money for extra work", "From which hour on is overtime paid?", "compensation for working late"),
    "The newsletter goes out {v} times a year and is written by the press office.": (
        "how often do subscribers get mail", "Who writes the newsletter?", "press mailing frequency"),
    "Contracts above {v} thousand euros need the signature of the board.": (
        "who must sign a big deal", "Which contracts need the board?", "approval of expensive agreements"),
    "Bicycles are parked in the yard, where {v} places have a charger.": (
        "where do I leave my bike", "How many chargers for e-bikes are there?", "cycle parking"),
    "A new colleague has a mentor for the first {v} weeks.": (
        "who helps people who have just joined", "How long does somebody new have a mentor?", "onboarding support"),
    "Samples are kept in the freezer for {v} weeks and then destroyed.": (
        "what happens to old probes", "How long are samples kept?", "when are specimens thrown away"),
    "Complaints are answered within {v} working hours by the support line.": (
        "how fast do we react to unhappy customers", "When is a complaint answered?", "response time to criticism"),
}  # fmt: skip
OFF_TOPIC = (
    "What is the capital of France?",
    "Who wrote Hamlet?",
    "How do I bake sourdough bread?",
    "Explain photosynthesis",
    "why is the sky blue",
    "What is the tallest mountain?",
    "Translate good morning into Spanish",
    "tell me a joke about cats",
    "How many planets are there?",
    "Write a poem about rain",
    "what is the speed of light",
    "Who painted the Mona Lisa?",
    "How do vaccines work?",
    "best exercises for a sore back",
    "What does a black hole do?",
    "When did the second world war end?",
    "How do I tune a guitar?",
    "Is coffee bad for the heart?",
    "Name three rivers in Africa",
    "what rhymes with orange",
    "Solve x squared equals nine",
    "How do bees make honey?",
    "Who discovered penicillin?",
    "Recommend a film for tonight",
)
SITES = ("Aldora", "Brixen", "Corvane", "Dalmere", "Eskil", "Fennorth")


def sites_facts():
    """Return (document id, text) of every topic at every site, with values of their own: look-alikes of each other."""
    rng = random.Random(1)
    return [
        (f"{site.lower()}/{number}", f"At the {site} site: {topic.format(v=rng.randint(3, 95))}")
        for site in SITES
        for number, topic in enumerate(TOPICS)
    ]


def recall():
    """Return how often the right passage comes first, by words, by meaning and fused, and what reaches which floor.

    Paraphrases of sixteen sentences, and questions for sixty part numbers, which no meaning tells apart.
    """
    embedder = bundled_embedder()
    texts = [topic.format(v=7) for topic in TOPICS]
    asked = [(number, question) for number, questions in enumerate(TOPICS.values()) for question in questions]
    told, right = _hits(embedder, texts, asked)
    rng = random.Random(5)
    codes = [f"{rng.choice('bcdfg')}{rng.choice('klmn')}-{rng.randint(1000, 9999)}" for _ in range(60)]
    parts = [
        f"Part {code} is the {rng.choice(('pump', 'valve', 'relay'))} for line {rng.randint(1, 9)} and costs "
        f"{rng.randint(10, 99)} euros."
        for code in codes
    ]
    exact, _ = _hits(
        embedder, parts, [(number, f"what does part {code} cost") for number, code in enumerate(codes)]
    )
    vectors = embedder.embed(texts)
    off = [float((vectors @ embedder.embed([question])[0]).max()) for question in OFF_TOPIC]
    floors = {
        f"{floor:.2f}": {
            "right_above": round(float(np.mean(np.array(right) >= floor)), 3),
            "off_topic_above": round(float(np.mean(np.array(off) >= floor)), 3),
        }
        for floor in (0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)
    }
    return {"paraphrases": told, "part_numbers": exact, "floors": floors}


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


def end_to_end(folder):
    """Return shares over look-alike sites: right passage, abstained on unknown sites and off-topic, stale, deleted."""
    here = Installation(folder, bundled_embedder())
    facts = dict(sites_facts())
    here.add(facts.items())
    counts = dict.fromkeys(("right_now", "wrong", "nothing"), 0)
    questions = [
        (f"{site.lower()}/{number}", f"{question.rstrip('?')} at the {site} site?")
        for site in SITES
        for number, asked in enumerate(TOPICS.values())
        for question in asked[:2]
    ]
    for name, question in questions:
        passages = here.find(question).passages
        told = passages[0].document.document_id if passages else None
        counts["right_now" if told == name else "nothing" if told is None else "wrong"] += 1
    unknown = [question.replace(SITES[0], "Quorvik") for _, question in questions[: 2 * len(TOPICS)]]
    abstained = np.mean([not here.find(question).passages for question in unknown])
    off = np.mean([not here.find(question).passages for question in OFF_TOPIC])
    changed = {
        name: text.replace("At the", "Since May, at the")
        for name, text in facts.items()
        if name.startswith("aldora")
    }
    here.add(changed.items())
    first = questions[: 2 * len(TOPICS)]
    after = [(name, here.find(question).passages) for name, question in first]
    stale = sum(bool(found) and not found[0].chunk.text.startswith("Since May") for name, found in after
                if found and found[0].document.document_id == name)  # fmt: skip
    here.remove(*(f"brixen/{number}" for number in range(len(TOPICS))))
    second = questions[2 * len(TOPICS) : 4 * len(TOPICS)]
    deleted = sum(any(one.document.document_id.startswith("brixen/") for one in here.find(question).passages)
                  for _, question in second)  # fmt: skip
    total = len(questions)
    return {
        "questions": total,
        **{name: round(count / total, 3) for name, count in counts.items()},
        "unknown_site_abstained": round(float(abstained), 3),
        "off_topic_abstained": round(float(off), 3),
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
        topic, asked = rng.choice(list(TOPICS.items()))
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
        with tempfile.TemporaryDirectory() as folder:
            told = {"recall": recall(), "end_to_end": end_to_end(folder), "speed": speed(given.sizes)}
    if given.answers or given.only_answers:
        told["answers"] = answers(given.count, given.base)
    text = json.dumps(told, indent=1)
    print(text)
    if given.json:
        given.json.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
