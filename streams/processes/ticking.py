"""Work that a trainer does by the clock, in a thread beside its jobs, which take minutes."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import Self

import structlog

from personalization.errors import PersonalizationError
from personalization.releases.observer import TrainerObserver
from privacy.errors import PrivacyError
from streams.errors import StreamsError

_log = structlog.get_logger(__name__)
LEAVE_SECONDS = 30.0


class Ticking(ABC):
    """Calls ``turn`` until it is left, as a context manager; a failure is reported and tried again at the next turn.

    Args:
        chore: name of the work, for logs and metrics.
        seconds: pause between two turns.
        observer: told of each turn that failed.
    """

    def __init__(self, chore: str, *, seconds: float, observer: TrainerObserver | None = None) -> None:
        self._chore = chore
        self._seconds = seconds
        self._observer = observer or TrainerObserver()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"discreet-{chore}", daemon=True)

    @abstractmethod
    def turn(self) -> object:
        """Do what is due."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(LEAVE_SECONDS)

    @property
    def leaving(self) -> bool:
        """Whether it is asked to end."""
        return self._stop.is_set()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.turn()
            except (PersonalizationError, PrivacyError, StreamsError) as error:
                self._observer.chore_failed(self._chore)
                _log.warning("chore_failed", chore=self._chore, code=error.code)
            except Exception as error:  # noqa: BLE001  # a dead thread would leave what is due undone, unsaid
                self._observer.chore_failed(self._chore)
                _log.error(
                    "chore_failed", chore=self._chore, error=type(error).__name__
                )  # rows' own words may be in it
            self._stop.wait(self._seconds)
