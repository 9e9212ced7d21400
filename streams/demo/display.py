"""Progress for people: which stage, how far, how long. A terminal gets a live bar, a log gets lines."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console
    from rich.progress import TaskID

LINE_SECONDS = 5.0  # between two lines of one stage where there is no terminal


class Stage:
    """One stage in progress; ``update`` may be called as often as one likes."""

    def __init__(
        self,
        title: str,
        console: Console,
        bar: Progress | None,
        task: TaskID | None,
        check: Callable[[], None],
    ) -> None:
        self._check = check
        self._title = title
        self._console = console
        self._bar = bar
        self._task = task
        self._started = self._said = time.monotonic()

    def update(self, done: float, total: float, note: str = "") -> None:
        """Say that ``done`` of ``total`` are done; ``note`` is a few words about what is going on.

        Raises:
            KeyboardInterrupt: somebody asked to stop.
        """
        self._check()
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total, note=note)
            return
        now = time.monotonic()
        if now - self._said >= LINE_SECONDS:
            self._said = now
            self._console.print(
                f"  {self._title}: {done:g} of {total:g} {note} ({now - self._started:.0f} s)",
                highlight=False,
            )


class Stages:
    """Runs named stages one after the other and remembers how long each took.

    Args:
        console: where to show them.
        stop_asked: whether somebody asked to stop. An interrupt alone is not enough: Python drops one that arrives
            while it runs a finalizer.

    Attributes:
        seconds: duration of each finished stage, by its key, in order.
    """

    def __init__(self, console: Console, stop_asked: Callable[[], bool] = lambda: False) -> None:
        self._console = console
        self._stop_asked = stop_asked
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, key: str, title: str) -> Iterator[Stage]:
        """Show ``title`` while the block runs, then how long it took; a repeated key adds up.

        Raises:
            KeyboardInterrupt: somebody asked to stop.
        """
        self._check()
        started = time.monotonic()
        if self._console.is_terminal:
            columns = (
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(),
            )
            with Progress(*columns, console=self._console, transient=True) as bar:
                yield Stage(title, self._console, bar, bar.add_task(title, total=None, note=""), self._check)
        else:
            self._console.print(f"{title} …", highlight=False, soft_wrap=True)
            yield Stage(title, self._console, None, None, self._check)
        took = time.monotonic() - started
        self.seconds[key] = self.seconds.get(key, 0.0) + took
        done = f"[green]✓[/green] {title} [dim]({took:.1f} s)[/dim]"
        self._console.print(done, highlight=False, soft_wrap=True)

    def _check(self) -> None:
        if self._stop_asked():
            raise KeyboardInterrupt
