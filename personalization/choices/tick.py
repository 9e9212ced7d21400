"""Choices are taken one after the other, each on its own, by whoever has time between two training jobs.

Votes may take hours, so one choice is taken at a time: rounds that are due come before the next one, and a stop does.
"""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import structlog

from personalization.choices.rows import lease_choice
from personalization.errors import (
    LeaseLostError,
    PersonalizationError,
    PromptChoiceError,
    TrainingFailedError,
)
from privacy.errors import FencedError, PrivacyError, StorageError
from privacy.storage.session import transaction

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from sqlalchemy.engine import Engine

    from personalization.choices.protocol import PromptChoices
    from personalization.choices.rows import ChoiceLease
    from personalization.choices.values import ChoiceOutcome

_log = structlog.get_logger(__name__)
LEASE: Final = timedelta(hours=2)  # longest that votes may take; a trainer that died is waited for so long
CHORE: Final = "prompt_choices"


class ChoiceTick:
    """Takes one choice that is due; any number of trainers may do so at once.

    Args:
        engine: the database.
        clock: the public clock.
        choices: the protocol of one choice.
        heard: told again and again while votes are taken, whatever they are, so that nobody holds their taker for dead.
        failed: told the name of this work where a choice failed.
        ended: told how each choice ended, in a word.
    """

    def __init__(
        self,
        engine: Engine,
        clock: Callable[[], datetime],
        choices: PromptChoices,
        heard: Callable[[], None] = lambda: None,
        failed: Callable[[str], None] = lambda _: None,
        ended: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._choices = choices
        self._heard = heard
        self._failed = failed
        self._ended = ended
        self._owner = uuid.uuid4().hex

    def run(self, *, stop: Callable[[], bool] = lambda: False) -> ChoiceOutcome | None:
        """Take one choice that is due, if there is one, and return how it ended; ``None``: it did not, or none is due.

        Args:
            stop: says when votes that are being taken are ended, and forfeit.

        Raises:
            StorageError: the database is away.
        """

        def stops() -> bool:
            self._heard()
            return stop()

        if stop():
            return None
        with transaction(self._engine) as session:
            lease = lease_choice(session, self._owner, self._clock(), LEASE)
        if lease is None:
            return None
        outcome = self._take(lease, stops)
        if outcome is not None:
            _log.info("prompt_choice_ended", line_ref=lease.line_ref, outcome=outcome.value)
            self._ended(outcome.value)
        return outcome

    def _take(self, lease: ChoiceLease, stop: Callable[[], bool]) -> ChoiceOutcome | None:
        try:
            return self._choices.take(lease, stop=stop)
        except FencedError:
            return None  # another trainer has it
        except LeaseLostError:
            return self._forfeited(lease, "votes were not taken in time")
        except TrainingFailedError as error:
            self._note(lease, error.code)
            return self._forfeited(lease, "votes could not be taken")
        except PromptChoiceError as error:
            self._note(lease, error.code)
            return self._forfeited(lease, "what is stored of it cannot be read")
        except StorageError:
            raise
        except (PersonalizationError, PrivacyError) as error:
            self._note(lease, error.code)
            return None

    def _forfeited(self, lease: ChoiceLease, why: str) -> ChoiceOutcome | None:
        try:
            return self._choices.forfeit(lease, why)
        except (LeaseLostError, FencedError):
            return None  # another trainer has it

    def _note(self, lease: ChoiceLease, code: str) -> None:
        self._failed(CHORE)
        _log.warning("chore_failed", chore=CHORE, code=code, line_ref=lease.line_ref)
