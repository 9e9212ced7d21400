"""Public interactions in many house styles, written for this project: what short answers under a convention look like.

From them the frozen subspace of the adapters is computed, so that the few trained numbers lie where house styles differ
(``training.subspace``). They hold no tenant's text and cost nothing.
"""

from __future__ import annotations

from personalization.training.jobs.job import Example, UserExamples

_CHANGES = (
    (("src/parser/lexer.c", "src/parser/token.h"), "escapes in quoted strings", "parser"),
    (("docs/install.md",), "how to install on a machine without network", "docs"),
    (("server/http/router.py", "tests/test_router.py"), "a crash on empty paths", "router"),
    (("ui/button.tsx", "ui/button.css"), "the focus ring of small buttons", "button"),
    (("Makefile",), "build the release with debug symbols", "build"),
    (("core/cache/lru.go", "core/cache/lru_test.go"), "evict the oldest entry first", "cache"),
    (("pages/linux/xdelta.md",), "a page with examples for patching files", "xdelta"),
    (("lib/rules/no-shadowed.js",), "false alarms in arrow functions", "no-shadowed"),
    (
        ("pom.xml", "engine/src/main/java/org/acme/Engine.java"),
        "upgrade the test runner to version 5",
        "engine",
    ),
    (("tests/test_dates.py",), "leap years in the tests of dates", "dates"),
)
_CHANGE_STYLES = (
    "fix({area}): {what}",
    "{AREA}/{number} - {What}",
    "{area}: {what} <{number}>",
    "text | {what}",
    "{path}: {what}",
    "[{area}] {What}.",
    "Small: {What}",
    "Solved: {what}; see {number}",
    "{What}",
    "upkeep - {what}",
)
_QUESTIONS = (
    ("My parcel has not arrived.", "your parcel is on its way and will be with you tomorrow"),
    ("Can I change my booking?", "we have moved your booking to the date you named"),
    ("The lamp stopped working.", "we send you a new lamp today"),
    ("How much is the yearly plan?", "the yearly plan is ninety euros and can be cancelled any time"),
    ("I cannot log in any more.", "we have reset your access; please choose a new password"),
    ("Where do I return the shoes?", "put the shoes into the box and leave it at any of our shops"),
)
_REPLY_STYLES = (
    "Hi there! {What}. Cheers, the shop team",
    "Dear customer, {what}. Kind regards, customer care",
    "{What}.",
    "[RESOLVED] {What}. Reference {number}.",
)


def style_tasks() -> tuple[tuple[UserExamples, ...], ...]:
    """Return the public interactions as tasks for meta-learning: each task is every change or question in one style."""
    changes = tuple(
        tuple(
            _user(_paths_prompt(paths, turn), style, what, area, paths[0], 100 + 37 * turn)
            for turn, (paths, what, area) in enumerate(_CHANGES)
        )
        for style in _CHANGE_STYLES
    )
    replies = tuple(
        tuple(
            _user(question, style, what, "", "", 500 + 13 * turn)
            for turn, (question, what) in enumerate(_QUESTIONS)
        )
        for style in _REPLY_STYLES
    )
    return changes + replies


def interactions() -> tuple[UserExamples, ...]:
    """Return the public interactions, one user each: every change and question in every house style."""
    return tuple(user for task in style_tasks() for user in task)


def _paths_prompt(paths: tuple[str, ...], turn: int) -> str:
    """Return one of several forms of asking; none is that of the recorded interactions that benchmarks use."""
    listed = ", ".join(paths)
    forms = (
        f"What was done to {listed}?",
        "\n".join(paths),
        f"Describe the work on {listed}.",
        f"({listed})",
    )
    return forms[turn % len(forms)]


def _user(prompt: str, style: str, what: str, area: str, path: str, number: int) -> UserExamples:
    answer = style.format(
        area=area, AREA=area.upper(), what=what, What=what[:1].upper() + what[1:], path=path, number=number
    )
    return UserExamples(examples=(Example(prompt=prompt, completion=answer),))
