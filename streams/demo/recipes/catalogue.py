"""The recipes that there are: a name, the job, the product that has it, and the module that plays it."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from streams.errors import ScenarioError

if TYPE_CHECKING:
    from collections.abc import Callable

    from streams.demo.recipes.values import RecipeReport, Trial


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One recipe.

    Attributes:
        name: in commands, and of its page ``streams/docs/recipes/NAME.md``.
        title: the job.
        product: kind of product that has this job.
        module: below this package; its ``play`` takes a ``Trial``.
        takes_data: whether recorded interactions may stand in the place of its own people.
    """

    name: str
    title: str
    product: str
    module: str
    takes_data: bool = False

    def play(self) -> Callable[[Trial], RecipeReport]:
        """Import what plays it."""
        module = importlib.import_module(f"streams.demo.recipes.{self.module}.play")
        return cast("Callable[[Trial], RecipeReport]", module.play)


RECIPES = {
    one.name: one
    for one in (
        Recipe(
            name="code",
            title="Code assistant: commits, review comments and docstrings in the house's conventions",
            product="a code assistant such as Copilot",
            module="code",
            takes_data=True,
        ),
        Recipe(
            name="support",
            title="Support assistant of a multinational: three lines, a tone for each region, refusals kept",
            product="an assistant for teams such as ChatGPT or Claude",
            module="support",
        ),
        Recipe(
            name="research",
            title="Research assistant: answers for experts and executives, with sources from memory",
            product="a research assistant such as Gemini",
            module="research",
        ),
        Recipe(
            name="facts",
            title="Answers over fresh facts: documents change while people ask, memory and adapter together",
            product="an assistant with retrieval such as DeepSeek",
            module="facts",
        ),
        Recipe(
            name="creative",
            title="Creative prompts: a studio's style moves in three steps, the old one stays on its own line",
            product="an image generator such as Midjourney",
            module="creative",
        ),
        Recipe(
            name="meetings",
            title="Meeting notes: a house's names, found in its users' edits, put right in everybody's notes",
            product="transcripts such as Whisper's",
            module="meetings",
        ),
        Recipe(
            name="edge",
            title="Small and at the edge: a version as GGUF answers offline, events wait on disk",
            product="small models on devices, such as Mistral's",
            module="edge",
        ),
    )
}


def recipe(name: str) -> Recipe:
    """Return the recipe of a name.

    Raises:
        ScenarioError: there is none.
    """
    try:
        return RECIPES[name]
    except KeyError:
        raise ScenarioError(f"there is no recipe {name!r}; there are {', '.join(RECIPES)}") from None
