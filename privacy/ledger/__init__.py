"""The privacy ledger: reservations against proved filters in an append-only hash chain per tenant."""

from privacy.accounting.filters import AccountSettings, BudgetCaps, FilterRule
from privacy.ledger.service import Ledger
from privacy.ledger.values import (
    DrawRecord,
    PopulationCap,
    Recovery,
    RecoveryDecision,
    Reservation,
    ReservationRequest,
    ReservationState,
    RunBinding,
    SpendView,
)

__all__ = [
    "AccountSettings",
    "BudgetCaps",
    "DrawRecord",
    "FilterRule",
    "Ledger",
    "PopulationCap",
    "Recovery",
    "RecoveryDecision",
    "Reservation",
    "ReservationRequest",
    "ReservationState",
    "RunBinding",
    "SpendView",
]
