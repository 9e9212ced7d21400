"""Render templates: text with placeholders, and nothing that could run.

A template may hold text, variables and literals, and no other expression or statement. Values are put in as they are
and never read as templates. Marks by which models tell turns apart are taken out of the whole result, however they came
to be in it: so no word of a card, of an operator, of a request or of a document closes a turn and opens another.

What comes out is bounded by what goes in: a placeholder stands at most so often, and values are bounded by who gives
them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from jinja2 import StrictUndefined, TemplateError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from personalization.errors import PromptTemplateError
from personalization.memory.cleaning import without_control_marks
from personalization.prompts.values import GIVEN, GLOSSARY, LONGEST_SOURCE, NAME_LENGTH, PROMPT, When, name_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from personalization.prompts.values import PromptTemplate

BARE: Final = "{{ prompt }}"  # a template that says nothing
KEPT: Final = 4_096
MOST_PLACES: Final = 2  # of one variable in one template
_ALLOWED: Final = (nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const)
_ENVIRONMENT: Final = ImmutableSandboxedEnvironment(
    undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
)
_ENVIRONMENT.globals.clear()
_ENVIRONMENT.filters.clear()
_ENVIRONMENT.tests.clear()


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """A template that may be used.

    Attributes:
        name: of its version.
        when: it is used.
        compiled: the template as Jinja2 runs it.
        defaults: of each declared variable.
        wants_glossary: whether it has a place for the tenant's terms.
    """

    name: str
    when: When
    compiled: Any
    defaults: tuple[tuple[str, str], ...] = ()
    wants_glossary: bool = False

    def render(self, prompt: str, *, glossary: str = "", values: Mapping[str, str] | None = None) -> str:
        """Return the text with a prompt in it.

        Args:
            prompt: what the user asks.
            glossary: lines about the tenant's terms in it.
            values: of declared variables; what is not declared is left out, and what is not said has its default.
        """
        said = {name: (values or {}).get(name, default) for name, default in self.defaults}
        return without_marks(str(self.compiled.render({**said, PROMPT: prompt, GLOSSARY: glossary})))


def rendering_of(template: PromptTemplate) -> Rendering:
    """Return a template ready for use.

    Raises:
        PromptTemplateError: it holds something that a template may not hold, or has no place for the prompt.
    """
    return _rendering(template)


@lru_cache(maxsize=KEPT)
def _rendering(template: PromptTemplate) -> Rendering:
    declared = {one.name for one in template.variables}
    compiled, used = _compiled(template.source, {*GIVEN, *declared})
    unused = sorted(declared - used)
    if unused:
        raise PromptTemplateError(
            f"the variable {unused[0]!r} is declared and stands nowhere in the template"
        )
    return Rendering(
        name=name_of(template.version_id),
        when=template.when,
        compiled=compiled,
        defaults=tuple((one.name, one.default) for one in template.variables),
        wants_glossary=GLOSSARY in used,
    )


@lru_cache(maxsize=KEPT)
def card_rendering(text: str) -> Rendering | None:
    """Return the template of a style card ready for use; ``None`` for one that says nothing, or is not what it may be.

    It comes signed with a version and was made of a released card, whose words are users'.
    """
    if text.strip() in {"", BARE}:
        return None
    try:
        compiled, _ = _compiled(text, {PROMPT})
    except PromptTemplateError:
        return None
    name = hashlib.sha256(text.encode()).hexdigest()[:NAME_LENGTH]
    return Rendering(name=name, when=When.ALWAYS, compiled=compiled)


def without_marks(text: str) -> str:
    """Return a text without the marks of turns, those included that appear when others are taken out."""
    return without_control_marks(text, "")


def _compiled(source: str, variables: set[str]) -> tuple[Any, set[str]]:
    """Return a compiled template and the variables that stand in it."""
    if len(source) > LONGEST_SOURCE:
        raise PromptTemplateError(f"a template has from 1 to {LONGEST_SOURCE} characters")
    try:
        tree = _ENVIRONMENT.parse(source)
    except TemplateError as error:
        raise PromptTemplateError(
            f"the template cannot be read: line {getattr(error, 'lineno', None) or 1} is no Jinja2"
        ) from None
    for node in tree.find_all(nodes.Node):
        _require_allowed(node)
    names = [node.name for node in tree.find_all(nodes.Name)]
    unknown = sorted(set(names) - variables)
    if unknown:
        raise PromptTemplateError(
            f"the template uses {unknown[0][:63]!r}, which it does not declare; declare it, with a default"
        )
    if PROMPT not in names:
        raise PromptTemplateError(
            "the template has no place for what is asked; write {{ prompt }} where it goes"
        )
    if max(map(names.count, names)) > MOST_PLACES:
        raise PromptTemplateError(f"a variable stands in the template at most {MOST_PLACES} times")
    return _ENVIRONMENT.from_string(tree), set(names)


def _require_allowed(node: nodes.Node) -> None:
    text = isinstance(node, nodes.Const) and isinstance(node.value, str)
    if not text and (isinstance(node, nodes.Const) or not isinstance(node, _ALLOWED)):
        raise PromptTemplateError(
            f"the template holds a {type(node).__name__.lower()} in line {node.lineno}; allowed are text and "
            "placeholders such as {{ prompt }}, no statements, filters, attributes or sums"
        )
