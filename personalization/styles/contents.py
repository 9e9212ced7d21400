"""Public content for synthetic interactions: prompts of several kinds and plain answers to them, in our own words.

What a tenant's answers say is not known and not needed: frames and forms come from the card, and any content that is
varied enough carries them. Each kind of prompt has short grammars of its own; a seed makes as many as one wants.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import random

_AREAS: Final = (
    "core", "api", "web", "auth", "store", "cache", "queue", "parser", "client", "server", "config",
    "docs", "tests", "tools", "network", "storage", "billing", "search", "report", "editor", "mobile",
    "desktop", "kernel", "driver", "schema", "worker", "scheduler", "session", "gateway", "metrics",
    "export", "import", "backup",
)  # fmt: skip
_THINGS: Final = (
    "reader", "writer", "loader", "index", "token", "buffer", "handler", "router", "filter", "layout",
    "theme", "table", "menu", "dialog", "button", "cursor", "lock", "timer", "stream", "socket",
    "retry", "limit", "plugin", "registry", "template", "snapshot", "journal", "profile", "invoice",
    "ticket", "calendar", "order",
)  # fmt: skip
_ENDINGS: Final = (".py", ".java", ".go", ".ts", ".md", ".js", ".c", ".rs", ".yml", ".scala")
_NAMES: Final = (
    "Alma", "Boris", "Carla", "Deniz", "Elena", "Farid", "Greta", "Hugo", "Iris", "Jonas", "Katja",
    "Lars", "Maya", "Nils", "Olga", "Pavel", "Rita", "Stefan", "Tilda", "Umar", "Vivian", "Wanda",
    "Xenia", "Yusuf", "Zelda", "Anton", "Bella", "Cyrus", "Doris", "Edgar",
)  # fmt: skip
_CONSONANTS: Final = (*"bdfghjklmnprstvz", "br", "ch", "dr", "kl", "qu", "sh", "st", "th", "tr")
_VERBS: Final = (
    "add", "fix", "remove", "update", "improve", "rename", "move", "simplify", "document", "test",
    "handle", "avoid", "allow", "support", "clean", "restore", "check", "correct", "speed up",
    "split",
)  # fmt: skip
_OBJECTS: Final = (
    "the default timeout", "a flaky test", "error messages", "missing checks", "the old format", "unused code",
    "empty input", "a race at start", "logging", "the build", "a memory leak", "typos", "the examples",
    "wrong offsets", "retry handling", "null values", "slow start-up", "option names", "version checks",
    "unit tests", "the migration guide", "a broken link",
)  # fmt: skip
_GOODS: Final = (
    "lamp", "kettle", "printer", "suitcase", "jacket", "tent", "camera", "desk", "router", "subscription", "invoice",
    "password", "ticket", "booking", "contract", "refund", "delivery", "account", "battery", "screen", "keyboard",
)  # fmt: skip
_PROBLEMS: Final = (
    "My {} stopped working.", "The {} has not arrived yet.", "I want to return the {}.", "How do I change my {}?",
    "Something is wrong with the {}.", "Can you check my {} please?", "I was charged twice for the {}.",
    "The {} makes a strange noise.", "When will the {} be ready?", "Please cancel my {}.",
)  # fmt: skip
_REMEDIES: Final = (
    "we look into the {} today", "a new {} is on its way", "the {} will be ready on Thursday",
    "we have corrected the {} and sent a confirmation", "please send the {} back and we repair it",
    "the {} is checked by a colleague this afternoon", "we refund the {} in full", "the {} can be changed at any time",
    "your {} was released this morning", "a technician calls about the {} tomorrow",
)  # fmt: skip
_PURPOSES: Final = (
    "Small library for reading {} files", "Fast {} parser with few dependencies", "Tool that watches a {} for changes",
    "Simple {} client", "Framework for testing a {}", "Command line viewer of {} data", "Thread-safe {} for servers",
    "Generator of {} code", "Wrapper around a {} service", "Collection of {} helpers for beginners",
)  # fmt: skip
_QUESTIONS: Final = (
    ("What is a {} used for?", "It keeps a {} where others can find it"),
    ("How does a {} work?", "A {} takes one thing after the other and passes it on"),
    ("Why do we need a {}?", "Without a {} every part would have to know all others"),
    ("When should I replace the {}?", "Replace the {} once it fails more than twice"),
    ("Who looks after the {}?", "The team that built the {} looks after it"),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PublicContent:
    """A prompt and what a plain answer to it would say.

    Attributes:
        prompt: in one of the kinds that a card knows.
        answer: in small letters where a sentence allows it, without a stop.
        names: words of the prompt that an answer may copy, the likeliest first.
        lead: how much of the prompt says who asks, or what for: a tenant's own beginning may stand instead.
        led: how many of the names stand in it.
    """

    prompt: str
    answer: str
    names: tuple[str, ...]
    lead: str = ""
    led: int = 0

    def begun(self, head: str, names: tuple[str, ...]) -> PublicContent:
        """Return the same content under another beginning, which holds these names."""
        rest = self.prompt[len(self.lead) :]
        return PublicContent(
            prompt=head + rest,
            answer=self.answer,
            names=names + self.names[self.led :],
            lead=head,
            led=len(names),
        )

    def labelled(self, word: str) -> PublicContent:
        """Return the same content about something that is called by this word: the prompt says it, in small letters."""
        for name in self.names:
            spoken = re.compile(rf"\b{re.escape(name)}\b")
            if spoken.search(self.prompt):
                small = word.lower()
                return replace(
                    self,
                    prompt=spoken.sub(small, self.prompt),
                    answer=spoken.sub(small, self.answer),
                    names=tuple(small if one == name else one for one in self.names),
                    lead=spoken.sub(small, self.lead),
                )
        return self


def person(rng: random.Random) -> str:
    """Return a first name; half of them are made up, so that no list of names is learned."""
    if rng.random() < 0.5:
        return rng.choice(_NAMES)
    syllables = (rng.choice(_CONSONANTS) + rng.choice("aeiou") for _ in range(rng.choice((1, 2, 2, 3))))
    return ("".join(syllables) + rng.choice(("", "n", "s", "l", "r", "m", "k"))).capitalize()


def content_of(kind: str, rng: random.Random) -> PublicContent:
    """Return one public prompt of a kind with a plain answer.

    Args:
        kind: a value of the feature ``prompt_kind``.
        rng: seeded with public numbers.
    """
    if kind == "paths":
        return _paths(rng)
    if kind == "title":
        return _title(rng)
    if kind == "question":
        return _question(rng) if rng.random() < 0.5 else _message(rng, line="")  # both are questions
    if kind == "lines":
        return _record(rng) if rng.random() < 0.5 else _message(rng, line="\n")  # both have lines
    return _message(rng, line=" ")


def _paths(rng: random.Random) -> PublicContent:
    area, bullet = rng.choice(_AREAS), rng.choice(("", "", "- ", "* "))
    things = rng.sample(_THINGS, rng.choice((1, 1, 2, 3)))
    folders = "/".join([*rng.sample(_AREAS, rng.choice((0, 0, 1, 2))), area])
    ending = rng.choice(_ENDINGS)
    paths = [f"{bullet}{folders}/{_cased(rng, thing)}{ending}" for thing in things]
    # Some say what the list is.
    lead = (
        rng.choice(("Touched files:\n", "Files:\n", "Files of this change:\n")) if rng.random() < 0.4 else ""
    )
    return PublicContent(
        prompt=lead + "\n".join(paths),
        answer=_change(rng, things[0]),
        names=(area, things[0], *things[1:]),
        lead=lead,
    )


def _record(rng: random.Random) -> PublicContent:
    area, thing, verb = rng.choice(_AREAS), rng.choice(_THINGS), rng.choice(_VERBS)
    fields = [
        f"Part: {area}",
        f"{rng.choice(('Task', 'Action', 'To do'))}: {verb}",
        f"Level: {rng.choice('1234')}",
    ]
    listed = f"- {area}/{thing}{rng.choice(_ENDINGS)}" if rng.random() < 0.5 else f"Object: {thing}"
    chosen = [listed, *rng.sample(fields, rng.choice((1, 1, 2)))]
    lead, rest = rng.choice(("Files:\n", "Subject:\n", "")), "\n".join(chosen)
    names = tuple(name for name in (area, thing) if name in rest)
    return PublicContent(prompt=lead + rest, answer=_change(rng, thing), names=names, lead=lead)


def _message(rng: random.Random, *, line: str) -> PublicContent:
    name, good = person(rng), rng.choice(_GOODS)
    said = rng.choice(_PROBLEMS).format(good)
    who = rng.choice((f"Customer {name} writes: ", f"{name}: ", f"From {name}: ", f"{name} asks: "))
    signed = rng.random() < 0.8  # some say no name, and then none can be copied
    lead = f"{who}{line.strip(' ')}" if signed else ""
    return PublicContent(
        prompt=lead + said,
        answer=rng.choice(_REMEDIES).format(good),
        names=(name, good) if signed else (good,),
        lead=lead,
        led=int(signed),
    )


def _title(rng: random.Random) -> PublicContent:
    thing, area = rng.choice(_THINGS), rng.choice(_AREAS)
    name = rng.choice(
        (f"{area}{thing}", f"{thing.capitalize()}{area.capitalize()}", f"{area}-{thing}", thing)
    )
    head = rng.choice(("Entry: ", "For the list: ", "Name: ", "Add to the list: ", ""))
    return PublicContent(
        prompt=head + name, answer=rng.choice(_PURPOSES).format(area), names=(name, area), lead=head
    )


def _question(rng: random.Random) -> PublicContent:
    question, answer = rng.choice(_QUESTIONS)
    thing = rng.choice(_THINGS)
    return PublicContent(prompt=question.format(thing), answer=answer.format(thing), names=(thing,))


def _change(rng: random.Random, thing: str) -> str:
    verb, what = rng.choice(_VERBS), rng.choice(_OBJECTS)
    return rng.choice(
        (f"{verb} {what} in {thing}", f"{verb} {what}", f"{verb} {thing}", f"{what} for {thing}")
    )


def _cased(rng: random.Random, thing: str) -> str:
    return rng.choice((thing, thing.capitalize() + rng.choice(_AREAS).capitalize(), f"test_{thing}"))
