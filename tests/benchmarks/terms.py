"""Terms in seeded meeting notes: how many are found by a vote, put right, and how often a right text is changed.

    python3 tests/benchmarks/terms.py [--users N] [--epsilon E] [--seeds N] [--json PATH]

A tenant has names that come out wrong, and users who edit their notes: most put most names right, some rewrite words
as well, a fifth never edits, a few put things wrong. The vote is that of a release. What it found is used on notes of
users who did not vote. Each vote is held twice: over words that nobody knew before, and over a public list that the
tenant proposed, in which the names stand among decoys that nobody puts right. Errors of words are told apart: on words
of the tenant's names (B-WER) and on all others (U-WER), which must not rise. Right texts are this Python's own
documentation.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import random
import statistics
import sys
import sysconfig
from itertools import product
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from personalization.styles.discovery import discover
from personalization.styles.families import Feature
from personalization.styles.votes import StyleText, UserTexts
from privacy.accounting.calibration import style_vote_of
from privacy.policy.values import TenantPrivacyPolicy
from streams.client.terms import Terms

# (what is meant, how it comes out wrong)
NAMES = (
    ("Kubernetes", "cuber netties"),
    ("PostgreSQL", "postgres sequel"),
    ("Zephyrion", "zeffirion"),
    ("Quantalis", "quanta list"),
    ("AcmeCloud", "acne cloud"),
    ("Terraform", "terra form"),
    ("Orbivance", "or be vance"),
    ("Lumenex", "lumen ex"),
    ("Grafana", "gra fauna"),
    ("Vorticore", "vortex core"),
    ("NimbusDB", "nimbus debby"),
    ("Prometheus", "promethius"),
    ("Redis", "red is"),  # two common words, which right texts hold as well
)
DECOYS = tuple(
    (f"Produkt{first}{second}", f"product {first} {second}") for first in "abcdef" for second in "klmnopq"
)
LIST = tuple((written, meant) for meant, written in (*NAMES, *DECOYS))
_SAID = """
    the team talked about how long it takes to move every service over before the next quarter and who owns what
    when a customer calls at night so we agreed that somebody writes it down and that we look again in two weeks
    unless the numbers get worse which nobody expects but the budget is small and the plan was made in a hurry
    last summer
"""
FILLER = _SAID.split()
WORDS_OF_A_NOTE = 30
HELD_OUT = 60
EDITS_NEVER, CAREFUL, REWRITES, HOSTILE = 0.2, 0.85, 0.25, 0.05


def note(rng: random.Random, wrong: bool) -> tuple[str, str]:
    """Return a note as it was said, and as it came out; about two names in each."""
    words = [(rng.choice(FILLER),) * 2 for _ in range(WORDS_OF_A_NOTE)]
    for _ in range(2):
        meant, written = rng.choice(NAMES)
        words[rng.randrange(len(words))] = (meant, written if wrong and rng.random() < 0.8 else meant)
    return " ".join(meant for meant, _ in words), " ".join(came for _, came in words)


def user(rng: random.Random) -> UserTexts:
    never, hostile = rng.random() < EDITS_NEVER, rng.random() < HOSTILE
    texts = []
    for _ in range(rng.choice((2, 3, 4))):
        _, came = note(rng, wrong=True)
        final = came
        if not never:
            for meant, written in NAMES:
                if rng.random() < CAREFUL:
                    final = final.replace(written, "Zonk" if hostile else meant)
        if not never and rng.random() < REWRITES:
            words = final.split()
            for _ in range(3):
                words[rng.randrange(len(words))] = rng.choice(FILLER)
            final = " ".join(words)
        texts.append(StyleText(prompt="Notes, please", shown=came, final=final))
    return UserTexts(texts=tuple(texts))


def word_errors(reference: str, text: str) -> tuple[int, int, int, int]:
    """Return errors and words among the tenant's names, and among all other words."""
    names = {word for meant, _ in NAMES for word in meant.split()}
    one, other = reference.split(), text.split()
    cost = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i in range(len(one) + 1):
        for j in range(len(other) + 1):
            if i == 0 or j == 0:
                cost[i][j] = i + j
            else:
                cost[i][j] = min(
                    cost[i - 1][j - 1] + (one[i - 1] != other[j - 1]), cost[i - 1][j] + 1, cost[i][j - 1] + 1
                )
    named = plain = 0
    i, j = len(one), len(other)
    while i or j:
        if i and j and cost[i][j] == cost[i - 1][j - 1] + (one[i - 1] != other[j - 1]):
            wrong, of_name, i, j = one[i - 1] != other[j - 1], one[i - 1] in names, i - 1, j - 1
        elif i and cost[i][j] == cost[i - 1][j] + 1:
            wrong, of_name, i = True, one[i - 1] in names, i - 1
        else:
            # The second word of a name that fell into two is that name's error.
            wrong, of_name, j = True, i > 0 and one[i - 1] in names, j - 1
        named += wrong and of_name
        plain += wrong and not of_name
    count = sum(word in names for word in one)
    return named, count, plain, len(one) - count


def rates(notes: list[tuple[str, str]]) -> dict[str, float]:
    """Return how much of the names is there, and both rates of errors."""
    found = total = named = names = plain = others = 0
    for said, text in notes:
        for meant, _ in NAMES:
            found += min(said.split().count(meant), text.split().count(meant))
            total += said.split().count(meant)
        errors = word_errors(said, text)
        named, names = named + errors[0], names + errors[1]
        plain, others = plain + errors[2], others + errors[3]
    return {"term_recall": found / total, "b_wer": named / names, "u_wer": plain / others}


def public_text() -> list[str]:
    """Return the documentation of this Python's own modules."""
    texts = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8", errors="replace"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                texts += filter(None, [ast.get_docstring(node)])
    return texts


def run(users: int, epsilon: float, seed: int, public: list[str], *, listed: bool) -> dict[str, float]:
    rng = random.Random(seed)
    policy = TenantPrivacyPolicy(
        declared_users=users, period_epsilon=epsilon, lifetime_epsilon=epsilon, planned_releases=1, terms=True
    )
    vote = style_vote_of(policy)
    voters = [user(rng) for _ in range(users)]
    found: list[tuple[str, str]] = []
    if vote is not None:
        key = hashlib.sha256(f"terms {seed}".encode()).digest()
        card = discover(
            voters,
            vote,
            key,
            declared_users=users,
            voters=users,
            terms=True,
            glossary=LIST if listed else (),
        )
        found = [(one.key, one.words) for one in card.of(Feature.TERM)]
    terms = Terms(found)
    held = [note(rng, wrong=True) for _ in range(HELD_OUT * 4)]
    right = {(written, meant) for meant, written in NAMES}
    before, after = rates(held), rates([(said, terms.correct(came).text) for said, came in held])
    words = sum(len(text.split()) for text in public)
    changed = sum(len(terms.correct(text).corrections) for text in public)
    return {
        "found": len(found),
        "found_right": len(right & set(found)),
        **{f"{name}_before": value for name, value in before.items()},
        **{f"{name}_after": value for name, value in after.items()},
        "false_per_million_words": changed / words * 1e6,
        "public_words": words,
        "noise": 0.0 if vote is None else vote.noise_multiplier,
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, nargs="*", default=[100, 200, 400, 800])
    parser.add_argument("--epsilon", type=float, nargs="*", default=[8.0, 4.0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=None)
    given = parser.parse_args(arguments)
    public, rows = public_text(), []
    print(f"{len(NAMES)} names, {len(DECOYS)} decoys in the list; one release; {given.seeds} seeds (mean)")
    for epsilon, users, listed in product(given.epsilon, given.users, (False, True)):
        runs = [run(users, epsilon, seed, public, listed=listed) for seed in range(given.seeds)]
        row = {"users": users, "epsilon": epsilon, "listed": listed}
        row |= {name: statistics.fmean(one[name] for one in runs) for name in runs[0]}
        rows.append(row)
        print(
            f"epsilon {epsilon:g}, {users:>4} users, {'over a list' if listed else 'over own words'}, "
            f"noise {row['noise']:.2f}: {row['found']:.1f} found ({row['found_right']:.1f} right); "
            f"term recall {row['term_recall_before']:.2f} → {row['term_recall_after']:.2f}, "
            f"B-WER {row['b_wer_before']:.2f} → {row['b_wer_after']:.2f}, "
            f"U-WER {row['u_wer_before']:.3f} → {row['u_wer_after']:.3f}; "
            f"{row['false_per_million_words']:.1f} false in a million words of {row['public_words']:.0f}"
        )
    if given.json is not None:
        given.json.write_text(json.dumps({"rows": rows, "seeds": given.seeds}, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
