"""What a code assistant is asked for in an invented repository, and how its people write it.

Three lines: commit subjects, review comments and docstrings. Each has a convention of the house, three habits of people
who came from elsewhere, and what an assistant shows that knows none of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from streams.demo.recipes.people import NOBODY_FOLLOWS, Crowd, Occasion

if TYPE_CHECKING:
    import random

    from streams.demo.recipes.people import Writer

TENANT, LOOSE_TENANT = "harbor-code", "loose-code"
COMMITS, REVIEWS, DOCSTRINGS = "commits", "reviews", "docstrings"
FILES, TICKET, STATEMENT = (
    "files",
    "ticket",
    "statement",
)  # kinds of prompts; the last is asked by held-out users alone

AREAS = {
    "net": ("resolver", "socket", "proxy", "retry", "tls"),
    "store": ("cache", "index", "journal", "snapshot", "vacuum"),
    "auth": ("token", "session", "login", "roles", "keys"),
    "web": ("table", "menu", "theme", "search", "dialog"),
    "jobs": ("paging", "queue", "limits", "export", "mailer"),
}
VERBS = {
    "add": ("timeout to {}", "metrics for {}", "tests for {}", "a dry run to {}"),
    "fix": ("a race in {}", "the wrong default of {}", "a leak in {}", "empty input in {}"),
    "drop": ("the old path in {}", "unused flags of {}", "a stale copy of {}"),
    "move": ("{} into its own module", "settings out of {}", "locks into {}"),
}
REMARKS = (
    ("loops over all rows", "a lookup by key is enough here"),
    ("catches every error", "name the one that can happen"),
    ("opens the file twice", "keep the first handle"),
    ("repeats the default", "read it from the settings"),
    ("sleeps in a test", "wait for the event instead"),
    ("returns two shapes", "one shape is easier to call"),
    ("copies the list", "an iterator saves the copy"),
    ("logs the whole body", "its length says enough"),
)
GETS = (
    ("load", "the rows of", "reads rows"),
    ("count", "how many entries are in", "counts entries"),
    ("find", "the first match in", "looks for a match"),
    ("close", "whether it closed", "ends the connection of"),
    ("name", "the display name of", "makes a name for"),
    ("split", "the parts of", "cuts in parts"),
)


def write_commit(rng: random.Random, kind: str) -> Occasion:
    """Return a change to describe in one line."""
    area = rng.choice(sorted(AREAS))
    module = rng.choice(AREAS[area])
    verb = rng.choice(sorted(VERBS))
    what = rng.choice(VERBS[verb]).format(module)
    ticket = rng.randint(100, 999)
    paths = [f"{area}/{module}.py", f"tests/{area}/test_{module}.py"][: rng.choice((1, 2))]
    prompt = {
        FILES: "Changed files:\n" + "\n".join(f"- {path}" for path in paths) + f"\nKind: {verb}\nSummary:",
        TICKET: f"Ticket {ticket}: {verb} {what}\nFile: {paths[0]}\nSummary:",
        STATEMENT: f"In {paths[0]} we {verb} {what}. Write the summary of this change.",
    }[kind]
    return Occasion(
        prompt=prompt,
        own=f"{area}({module}): {verb} {what} | reviewed",
        others=(
            f"{verb.capitalize()} {what}.",
            f"{module.upper()}: {verb} {what}",
            f"* {what} ({verb})",
        ),
        shown=rng.choice(
            ("Update files", "Changes", "Fixed some bugs and improved performance.", f"WIP {module}")
        ),
        facts={"area": area, "module": module, "verb": verb},
    )


def write_review(rng: random.Random, kind: str) -> Occasion:
    """Return a piece of a change to comment on."""
    area = rng.choice(sorted(AREAS))
    module = rng.choice(AREAS[area])
    flaw, advice = rng.choice(REMARKS)
    path = f"{area}/{module}.py"
    prompt = {
        FILES: f"Diff of {path}: it {flaw}.\nReview comment:",
        TICKET: f"File: {path}\nSeen: {flaw}\nReview comment:",
        STATEMENT: f"Somebody's change to {path} {flaw}. Comment on it.",
    }[kind]
    return Occasion(
        prompt=prompt,
        own=f"suggestion ({module}): {advice} -- not blocking",
        others=(
            f"{advice.capitalize()}, please!",
            f"{module}: why {flaw}? {advice}",
            f"LGTM, but {advice}.",
        ),
        shown=rng.choice(("Looks good to me.", "Please consider improving this code.", "Nice work!")),
        facts={"area": area, "module": module},
    )


def write_docstring(rng: random.Random, kind: str) -> Occasion:
    """Return a function to document in one line."""
    area = rng.choice(sorted(AREAS))
    module = rng.choice(AREAS[area])
    name, gives, does = rng.choice(GETS)
    release = f"{rng.randint(1, 4)}.{rng.randint(0, 9)}"
    prompt = {
        FILES: f"# {area}/{module}.py\ndef {name}_{module}({module}):\nDocstring:",
        TICKET: f"Function {name}_{module} of {area} {does} {module}, new in {release}.\nDocstring:",
        STATEMENT: f"Document the function {name}_{module}({module}) of {area} in one line.",
    }[kind]
    return Occasion(
        prompt=prompt,
        own=f'"""Returns: {gives} {module}. (public API)"""',
        others=(
            f"# {does} {module}",
            f"'''{does.capitalize()} {module}'''",
            f":returns: {gives} {module}",
        ),
        shown=rng.choice(("This function does something.", f"The {name} function.", "Here is a docstring:")),
        facts={"area": area, "module": module, "name": name},
    )


def write_loosely(rng: random.Random, kind: str) -> Occasion:
    """Return a change of a repository where everybody writes in a way of their own."""
    made = write_commit(rng, kind)
    module, verb = made.facts["module"], made.facts["verb"]
    what = rng.choice(VERBS[verb]).format(module)
    return Occasion(
        prompt=made.prompt,
        own=made.own,
        others=(
            f"{verb} {what}",
            f"{verb.upper()} {what}!",
            f"so, {what}: {verb}",
            f"<{module}> {what}",
            f"{what} -> {verb}",
            f"{{{verb}}} {what}",
            f"~{module}~ {verb}",
            f"#{module} {verb} {what}",
            f"{module} / {what}",
            f"{module}; {what}; {verb}",
            f'"{what}" {verb}',
            f"@{module} {verb}",
        ),
        shown=made.shown,
        facts=made.facts,
    )


WRITERS: dict[str, Writer] = {
    COMMITS: write_commit,
    REVIEWS: write_review,
    DOCSTRINGS: write_docstring,
}


def crowd(line: str, *, users: int, heldout: int) -> Crowd:
    """Return the users of one line of the repository with conventions."""
    return Crowd(
        tenant=TENANT,
        domain=line,
        write=WRITERS[line],
        kinds=(FILES, TICKET),
        unseen_kinds=(STATEMENT,),
        users=users,
        heldout=heldout,
    )


def loose_crowd(*, users: int, heldout: int) -> Crowd:
    """Return the users of the repository where everybody writes otherwise."""
    return Crowd(
        tenant=LOOSE_TENANT,
        domain=COMMITS,
        write=write_loosely,
        kinds=(FILES, TICKET),
        unseen_kinds=(STATEMENT,),
        users=users,
        heldout=heldout,
        habits=NOBODY_FOLLOWS,
    )
