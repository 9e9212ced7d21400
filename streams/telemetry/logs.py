"""Structured logs on standard error: event names and plain facts, never a payload or an id of a person."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import structlog

from privacy.boundary.marks import Kind
from privacy.boundary.register import BOUNDARY

if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from typing import Any

    from streams.settings import LogSettings

# Libraries say at INFO what we say in our own words; some print record keys at DEBUG.
_LIBRARIES = ("faust", "mode", "aiohttp", "alembic", "streams.broker.faust", "streams.broker.app")


def configure(settings: LogSettings) -> None:
    """Send our events and the warnings of libraries to standard error in the set format."""
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    renderer: structlog.types.Processor = (
        structlog.processors.JSONRenderer()
        if settings.format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            only_marked,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", force=True)
    # A lost connection is told once, in our words; kafka-python tells it for every attempt.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    for name in _LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)


def only_marked(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Take every fact out of a log event that has no mark at the boundary; its name is kept without the value."""
    unmarked = [name for name in event if BOUNDARY.mark_of(Kind.LOG, name) is None]
    for name in unmarked:
        del event[name]
    if unmarked:
        event["unmarked"] = sorted(unmarked)
    return event
