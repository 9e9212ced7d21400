"""Choose among a tenant's lines, and stay within its latency budget; needs NumPy (``discreet-client[routing]``)."""

from __future__ import annotations

from ..errors import PrototypeError
from .latency import DROP_ORDER, LatencyChoice, Lever, LeverTimes, choose_levers
from .prototypes import Encoder, Meaning, Prototype, prototype_of
from .router import Candidate, Level, Route, RouteLine, Router, RouteReason, RouterSettings

__all__ = [
    "DROP_ORDER",
    "Candidate",
    "Encoder",
    "LatencyChoice",
    "Level",
    "Lever",
    "LeverTimes",
    "Meaning",
    "Prototype",
    "PrototypeError",
    "Route",
    "RouteLine",
    "RouteReason",
    "Router",
    "RouterSettings",
    "choose_levers",
    "prototype_of",
]
