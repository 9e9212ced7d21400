"""What users say about answers: read, matched with the answer, and published as an interaction, or only counted.

It is published when the answer is remembered (its user had consented when it was shown) and its user consents still.
Whatever the reason why not, the answer to the caller is the same, so that it tells nothing about other users.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Protocol

from personalization.memory.traces import carries
from streams.client import (
    Accepted,
    BrokerUnreachableError,
    BufferFullError,
    ClosedError,
    Correction,
    DeliveryError,
    Edited,
    EventRefusedError,
    Rating,
    Rejected,
)
from streams.contracts.fields import MAX_TEXT_CHARACTERS
from streams.errors import GatewayError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from streams.client import Delivery, Outcome
    from streams.gateway.callers import Caller
    from streams.gateway.kpis import Kpis
    from streams.gateway.remembered import Remembered, Shown

KINDS: Final = ("accepted", "edited", "rejected", "rating", "correction")
CONFIRM_SECONDS: Final = 10.0


class Fate(StrEnum):
    """What became of one piece of feedback."""

    PUBLISHED = "published"
    COUNTED = "counted"


@dataclass(frozen=True, kw_only=True)
class Feedback:
    """One piece of feedback, as it was sent."""

    answer_id: str
    outcome: Outcome
    user: object


class Publisher(Protocol):
    """Where interactions go (``streams.client.AsyncInteractionPublisher``)."""

    async def publish(self, interaction: Mapping[str, Any], *, event_id: str | None = None) -> Delivery:
        """Send one; the delivery tells its fate."""


def read_feedback(body: object) -> Feedback:
    """Return what a body says.

    Raises:
        GatewayError: it is not what the route takes.
    """
    if not isinstance(body, dict):
        raise GatewayError("the body must be a JSON object")
    unknown = sorted(set(body) - {"id", "outcome", "final_text", "rating", "user"})
    if unknown:
        raise GatewayError(f"{unknown[0][:64]!r} is not known here; leave it out", param=unknown[0][:64])
    answer_id = body.get("id")
    if not isinstance(answer_id, str) or not 0 < len(answer_id) <= 128:
        raise GatewayError("id must be the id of a completion", param="id")
    return Feedback(answer_id=answer_id, outcome=_outcome(body), user=body.get("user"))


def _outcome(body: dict[str, Any]) -> Outcome:
    kind, text, rating = body.get("outcome"), body.get("final_text"), body.get("rating")
    if kind not in KINDS:
        raise GatewayError(f"outcome must be one of {', '.join(KINDS)}", param="outcome")
    with_text = kind in ("edited", "correction")
    if with_text and (not isinstance(text, str) or len(text) > MAX_TEXT_CHARACTERS):
        raise GatewayError(
            f"final_text must be a text of at most {MAX_TEXT_CHARACTERS} characters", param="final_text"
        )
    if kind == "rating" and (type(rating) is not int or not 1 <= rating <= 5):
        raise GatewayError("rating must be a whole number from 1 to 5", param="rating")
    if not with_text and text is not None:
        raise GatewayError(f"{kind} has no final_text; leave it out", param="final_text")
    if kind != "rating" and rating is not None:
        raise GatewayError(f"{kind} has no rating; leave it out", param="rating")
    match kind:
        case "edited":
            return Edited(final_text=str(text))
        case "correction":
            return Correction(final_text=str(text))
        case "rating":
            return Rating(rating=int(str(rating)))
        case "rejected":
            return Rejected()
        case _:
            return Accepted()


class FeedbackDesk:
    """Takes feedback.

    Args:
        remembered: the answers.
        notice: returns the version of the notice under which a user consents, ``None`` without consent.
        publisher: where interactions go.
        kpis: count what users made of answers.
        clock: aware UTC.
    """

    def __init__(
        self,
        remembered: Remembered,
        notice: Callable[[str, str], str | None],
        publisher: Publisher,
        kpis: Kpis,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._remembered = remembered
        self._notice = notice
        self._publisher = publisher
        self._kpis = kpis
        self._clock = clock

    async def take(self, caller: Caller, feedback: Feedback) -> Fate:
        """Publish one piece of feedback, or only count it.

        Raises:
            GatewayError: the broker did not confirm it; the same request may be sent again.
        """
        user = caller.user(feedback.user)
        shown = None if user is None else self._remembered.recall(feedback.answer_id, caller.tenant_id, user)
        notice = None if user is None else self._notice(caller.tenant_id, user)
        if user is None or shown is None or notice is None:
            return Fate.COUNTED
        if not shown.whole and isinstance(feedback.outcome, Accepted):
            return Fate.COUNTED  # nobody accepts what was not seen to its end
        final = getattr(feedback.outcome, "final_text", "")
        if any(carries(text, shown.passages, shown.prompt) for text in (shown.completion, final)):
            self._judged(
                caller, shown, feedback
            )  # what a document says is no user's, and ends with the document
            return Fate.COUNTED
        event = {
            "tenant_id": caller.tenant_id,
            "user_id": user,
            "interaction_id": feedback.answer_id,
            "domain": shown.domain,
            "prompt": shown.prompt,
            "completion": shown.completion,
            "outcome": feedback.outcome.model_dump(),
            "served_name": shown.served_name,
            "notice_version": notice,
            "occurred_at": self._clock(),
        }
        try:
            delivery = await self._publisher.publish(event, event_id=_event_id(feedback))
            await _confirmed(delivery)
        except EventRefusedError:
            return Fate.COUNTED  # too long, or of an id that no event may have
        except (DeliveryError, BufferFullError, BrokerUnreachableError, ClosedError, TimeoutError):
            raise GatewayError(
                "the feedback could not be stored now; send it again",
                status=503,
                kind="server_error",
                word="feedback_not_stored",
                retry_after=1,
            ) from None
        self._judged(caller, shown, feedback)
        return Fate.PUBLISHED

    def _judged(self, caller: Caller, shown: Shown, feedback: Feedback) -> None:
        self._kpis.judged(
            caller.tenant_id,
            shown.domain,
            shown.served_name,
            answer_id=feedback.answer_id,
            shown=shown.completion,
            outcome=feedback.outcome,
        )


async def _confirmed(delivery: Delivery) -> None:
    async with asyncio.timeout(CONFIRM_SECONDS):
        await delivery


def _event_id(feedback: Feedback) -> str:
    """Return the event's id: the same for the same feedback, so that sending it twice counts once."""
    told = feedback.outcome.model_dump_json().encode(errors="surrogatepass")
    return f"{feedback.answer_id}.{hashlib.sha256(feedback.answer_id.encode() + told).hexdigest()[:32]}"
