"""A prompt template as a version: its text, the variables that it declares, and when it is used. Pure values.

A version is its content: the digest of the document is its id, so a text that was approved once can never become
another. What a template may say is checked in ``rendering``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Self

from personalization.errors import PromptTemplateError
from privacy.canonical import canonical_json, digest_of

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT: Final = "discreet.prompt-template.v1"
LONGEST_SOURCE: Final = 8_192
LONGEST_VALUE: Final = 256  # of a declared variable
MOST_VARIABLES: Final = 8
MOST_CHOICES: Final = 32
NAME_LENGTH: Final = 16
PROMPT: Final = "prompt"  # what the user asks
GLOSSARY: Final = "glossary"  # lines about the tenant's terms that occur in what the user asks
GIVEN: Final = (PROMPT, GLOSSARY)  # by the gateway; every other variable is declared
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")


class When(StrEnum):
    """When a template is put around a prompt."""

    ALWAYS = "always"
    BASE = "base"  # where no adapter answers


class Origin(StrEnum):
    """Where a template comes from."""

    OPERATOR = "operator"
    CARD = "card"  # made of a released style card
    SELECTION = "selection"  # drawn by a charged vote of users among templates of the others


@dataclass(frozen=True, kw_only=True)
class Variable:
    """One declared variable; a request may set it, by OpenAI's field ``metadata``.

    Attributes:
        name: as the template names it.
        default: what it is where a request says nothing.
        choices: what a request may say; empty for any short text on one line.
    """

    name: str
    default: str
    choices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or _NAME.fullmatch(self.name) is None or self.name in GIVEN:
            raise PromptTemplateError(
                f"a variable is named {str(self.name)[:63]!r}; allowed are small letters, digits and underscores, but "
                f"not {' or '.join(GIVEN)}, which are given"
            )
        texts = (self.default, *self.choices)
        if not all(isinstance(one, str) and is_short(one) for one in texts):
            raise PromptTemplateError(
                f"the variable {self.name!r} has a value that is not allowed; allowed is text on one line of at most "
                f"{LONGEST_VALUE} characters"
            )
        if len(self.choices) > MOST_CHOICES or (self.choices and self.default not in self.choices):
            raise PromptTemplateError(
                f"the variable {self.name!r} needs at most {MOST_CHOICES} choices, with its default among them"
            )

    def allows(self, value: str) -> bool:
        """Say whether a request may set the variable to this."""
        return value in self.choices if self.choices else is_short(value)


@dataclass(frozen=True, kw_only=True)
class PromptTemplate:
    """One version of a template.

    Attributes:
        source: Jinja2 with placeholders alone.
        variables: the declared ones, by name.
        when: it is used.
        origin: where it comes from.
    """

    source: str
    variables: tuple[Variable, ...] = ()
    when: When = When.ALWAYS
    origin: Origin = Origin.OPERATOR

    def __post_init__(self) -> None:
        if not isinstance(self.source, str) or not 0 < len(self.source) <= LONGEST_SOURCE:
            raise PromptTemplateError(f"a template has from 1 to {LONGEST_SOURCE} characters")
        names = [one.name for one in self.variables]
        if len(names) > MOST_VARIABLES or sorted(set(names)) != names:
            raise PromptTemplateError(
                f"a template declares at most {MOST_VARIABLES} variables, each once and in the order of their names"
            )

    @property
    def version_id(self) -> str:
        """The ``sha256:`` digest of the content."""
        return digest_of(self.to_document())

    @property
    def name(self) -> str:
        """The first digits of the digest, as headers and commands name the version."""
        return name_of(self.version_id)

    def to_document(self) -> dict[str, Any]:
        """Return a JSON-ready copy; ``from_document`` reads it back to an equal template."""
        return {
            "format": FORMAT,
            "source": self.source,
            "variables": [
                {"name": one.name, "default": one.default, "choices": list(one.choices)}
                for one in self.variables
            ],
            "when": self.when.value,
            "origin": self.origin.value,
        }

    @classmethod
    def from_document(cls, document: object) -> Self:
        """Read ``to_document``'s form.

        Raises:
            PromptTemplateError: it is no template of this format.
        """
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise PromptTemplateError(f"a template's format is {FORMAT}; this document has another")
        try:
            return cls(
                source=document["source"],
                variables=tuple(
                    Variable(name=one["name"], default=one["default"], choices=tuple(one["choices"]))
                    for one in document["variables"]
                ),
                when=When(document["when"]),
                origin=Origin(document["origin"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise PromptTemplateError("the template cannot be read; it is damaged") from error


@dataclass(frozen=True, kw_only=True)
class SignedTemplate:
    """A version as it is kept and sent: for one line, with who vouches for it.

    Attributes:
        template: the content.
        number: of the version on its line, from 1 on.
        key_id: short name of the key that signed it.
        signature: Ed25519 over ``signed_bytes``, base64.
    """

    template: PromptTemplate
    number: int
    key_id: str
    signature: str


def signed_bytes(line_ref: str, template: PromptTemplate) -> bytes:
    """Return what is signed: the content together with the line that it is for."""
    return canonical_json({"line_ref": line_ref, "template": template.to_document()})


def name_of(version_id: str) -> str:
    """Return the short name of a version."""
    return version_id.removeprefix("sha256:")[:NAME_LENGTH]


def is_short(value: str) -> bool:
    """Say whether a text may be the value of a declared variable: short, on one line, without control characters."""
    return len(value) <= LONGEST_VALUE and value.isprintable()


def read_variables(document: Mapping[str, object]) -> tuple[Variable, ...]:
    """Return the variables that an operator wrote: of each name its default, or the list of choices, default first.

    Raises:
        PromptTemplateError: one cannot be.
    """
    found = []
    for name, told in sorted(document.items()):
        if isinstance(told, list) and told and all(isinstance(one, str) for one in told):
            found.append(Variable(name=name, default=told[0], choices=tuple(told)))
        elif isinstance(told, str):
            found.append(Variable(name=name, default=told))
        else:
            raise PromptTemplateError(
                f"the variable {name[:63]!r} is neither a text (its default) nor a list of texts (its choices)"
            )
    return tuple(found)
