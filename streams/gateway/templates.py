"""Render the prompt templates of style cards: text with the one variable ``prompt``, and nothing that could run.

A template comes signed with a version and was made of a released card, whose words are users'. So it may hold text, the
variable and literals, and no other expression or statement; and marks by which models tell turns apart are taken out of
its text, so that no word of a card can close a turn and open another.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from jinja2 import StrictUndefined, TemplateError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

if TYPE_CHECKING:
    from collections.abc import Callable

BARE: Final = "{{ prompt }}"  # a template that says nothing
LONGEST: Final = 8_192
KEPT: Final = 4_096
_ALLOWED: Final = (nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const)
_TURN_MARKS: Final = re.compile(r"<\|[^|<>]{1,40}\|>|</?s>|\[/?INST\]|<(?:start|end)_of_turn>")
_ENVIRONMENT: Final = ImmutableSandboxedEnvironment(
    undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
)
_ENVIRONMENT.globals.clear()


@dataclass(frozen=True, kw_only=True)
class PromptTemplate:
    """A template that may be used.

    Attributes:
        name: first 16 hexadecimal digits of its SHA-256.
        render: puts a prompt in.
    """

    name: str
    render: Callable[[str], str]


@lru_cache(maxsize=KEPT)
def prompt_template(text: str) -> PromptTemplate | None:
    """Return a template ready for use; ``None`` for one that says nothing, or that is not what it may be."""
    if text.strip() in {"", BARE} or len(text) > LONGEST:
        return None
    try:
        tree = _ENVIRONMENT.parse(text)
    except TemplateError:
        return None
    if any(not _allowed(node) for node in tree.find_all(nodes.Node)) or not any(
        isinstance(node, nodes.Name) for node in tree.find_all(nodes.Name)
    ):
        return None
    for data in tree.find_all(nodes.TemplateData):
        data.data = _TURN_MARKS.sub("", data.data)
    compiled = _ENVIRONMENT.from_string(tree)
    return PromptTemplate(
        name=hashlib.sha256(text.encode()).hexdigest()[:16],
        render=lambda prompt: compiled.render(prompt=prompt),
    )


def _allowed(node: nodes.Node) -> bool:
    if isinstance(node, nodes.Name):
        return node.name == "prompt"
    if isinstance(node, nodes.Const):
        return isinstance(node.value, str)
    return isinstance(node, _ALLOWED)
