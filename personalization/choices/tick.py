"""Choices are taken one after the other, each on its own, by whoever has time between two training jobs."""

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
    """Takes what is due; any number of trainers may do so at once.

    Args:
        engine: the database.
        clock: the public clock.
        choices: the protocol of one choice.
    """

    def __init__(self, engine: Engine, clock: Callable[[], datetime], choices: PromptChoices) -> None:
        self._engine = engine
        self._clock = clock
        self._choices = choices
        self._owner = uuid.uuid4().hex

    def run(self, *, stop: Callable[[], bool] = lambda: False) -> list[ChoiceOutcome]:
        """Take all that is due and return how those ended that did.

        Args:
            stop: says when to leave the rest to the next tick; votes that are being taken are ended, and forfeit.

        Raises:
            StorageError: the database is away; what was done so far stays done.
        """
        ended = []
        while not stop():
            with transaction(self._engine) as session:
                lease = lease_choice(session, self._owner, self._clock(), LEASE)
            if lease is None:
                break
            outcome = self._take(lease, stop)
            if outcome is not None:
                ended.append(outcome)
                _log.info("prompt_choice_ended", line_ref=lease.line_ref, outcome=outcome.value)
        return ended

    def _take(self, lease: ChoiceLease, stop: Callable[[], bool]) -> ChoiceOutcome | None:
        try:
            return self._choices.take(lease, stop=stop)
        except FencedError:
            return None  # another trainer has it
        except LeaseLostError:
            return self._forfeited(lease, "votes were not taken in time")
        except TrainingFailedError as error:
            _log.warning("chore_failed", chore=CHORE, code=error.code, line_ref=lease.line_ref)
            return self._forfeited(lease, "votes could not be taken")
        except PromptChoiceError as error:
            _log.warning("chore_failed", chore=CHORE, code=error.code, line_ref=lease.line_ref)
            return self._forfeited(lease, "what is stored of it cannot be read")
        except StorageError:
            raise
        except (PersonalizationError, PrivacyError) as error:
            _log.warning("chore_failed", chore=CHORE, code=error.code, line_ref=lease.line_ref)
            return None

    def _forfeited(self, lease: ChoiceLease, why: str) -> ChoiceOutcome | None:
        try:
            return self._choices.forfeit(lease, why)
        except (LeaseLostError, FencedError):
            return None  # another trainer has it
