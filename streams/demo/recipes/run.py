"""Run a recipe: a folder, the processes, the play, the picture; everything is stopped and removed afterwards."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from streams.demo.display import Stages
from streams.demo.installation import Installation
from streams.demo.recipes.catalogue import recipe
from streams.demo.recipes.picture import draw
from streams.demo.recipes.values import Trial
from streams.errors import ScenarioError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from streams.demo.recipes.values import RecipeOptions, RecipeReport


def run_recipe(
    name: str, options: RecipeOptions, console: Console, *, stop_asked: Callable[[], bool] = lambda: False
) -> RecipeReport:
    """Run one recipe and return what was found; with a folder to keep, its picture lies in there.

    Raises:
        ScenarioError: there is no such recipe, or it cannot use an option.
        DemoError: a process stopped or something did not get done in time.
        KeyboardInterrupt: ``stop_asked`` became true.
    """
    one = recipe(name)
    if options.data is not None and not one.takes_data:
        raise ScenarioError(
            f"the recipe {name} makes its own people; --data is for recipes that can take others"
        )
    stages = Stages(console, stop_asked)
    with ExitStack() as stack:
        state = options.keep or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix=f"discreet-{name}-"))
        )
        state.mkdir(parents=True, exist_ok=options.keep is None)
        trial = Trial(
            here=Installation(stages, stack, state, options.base_model),
            options=options,
            now=datetime.now(UTC),
        )
        try:
            report = replace(one.play()(trial), seconds=stages.seconds)
        except Exception as error:
            if stop_asked():  # a library may turn the interrupt into an error of its own
                raise KeyboardInterrupt from error
            raise
        if options.keep is not None:
            draw(report, state / f"{name}.png")
    return report
