"""Rényi-DP curves in whole numbers: exact addition and subtraction, rounded up once, on a frozen order grid.

A value is a number of *pico-nats* (10⁻¹² of the Rényi divergence's unit) as a Python integer. A positive
cost is at least 1, sums are exact and do not depend on their order, a released reservation gives back
exactly what it took, and two machines that read the same events hold the same account to the last digit.

Beside the values stands δ of selections, in whole units of 10⁻²⁴: the curve bounds the divergences but for an event of
that probability. Probabilities of such events add up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from privacy.errors import LedgerIntegrityError

GRID_NAME: Final = "grid-v1"
# The grid never changes; another one would get another name, and accounts opened on this one would stay on
# it. Fractions stand where a large ε has its best order; at whole orders the subsampled Gaussian has a
# closed form.
ORDERS: Final[tuple[float, ...]] = (
    *(1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 2.75, 3.0, 3.5, 4.0, 4.5, 5.0, 5.5, 6.0, 6.5, 7.0, 8.0, 9.0, 10.0),
    *(11.0, 12.0, 13.0, 14.0, 15.0, 16.0, 18.0, 20.0, 22.0, 24.0, 28.0, 32.0, 40.0, 48.0, 64.0, 96.0),
    *(128.0, 192.0, 256.0, 512.0, 1024.0),
)

_POSITION: Final = {order: index for index, order in enumerate(ORDERS)}
_LARGEST: Final = 10**40  # far above every admissible cost; a stored value beyond it is damage
DELTA_UNITS: Final = 10**24  # in a probability of 1


@dataclass(frozen=True)
class RdpCurve:
    """Upper bounds on the Rényi divergence at every order of the grid, in pico-nats.

    Attributes:
        values: one for each order.
        delta: the bounds hold but for events of this probability together, in units of 1/``DELTA_UNITS``.
    """

    values: tuple[int, ...]
    delta: int = 0

    def __post_init__(self) -> None:
        if len(self.values) != len(ORDERS):
            raise LedgerIntegrityError(
                f"a curve has {len(self.values)} values; grid {GRID_NAME} has {len(ORDERS)}"
            )
        for value in (*self.values, self.delta):
            if type(value) is not int or not 0 <= value <= _LARGEST:
                raise LedgerIntegrityError("a curve holds something else than whole numbers of at least 0")

    @classmethod
    def zero(cls) -> RdpCurve:
        """Return the curve of nothing."""
        return cls((0,) * len(ORDERS))

    def __add__(self, other: RdpCurve) -> RdpCurve:
        return RdpCurve(
            tuple(a + b for a, b in zip(self.values, other.values, strict=True)), self.delta + other.delta
        )

    def __sub__(self, other: RdpCurve) -> RdpCurve:
        """Return the exact difference.

        Raises:
            LedgerIntegrityError: it would be negative: more is given back than was taken.
        """
        return RdpCurve(
            tuple(a - b for a, b in zip(self.values, other.values, strict=True)), self.delta - other.delta
        )

    def __mul__(self, times: int) -> RdpCurve:
        return RdpCurve(tuple(value * times for value in self.values), self.delta * times)

    @property
    def is_zero(self) -> bool:
        """Whether nothing is charged."""
        return not any(self.values) and not self.delta

    def at(self, order: float) -> int:
        """Return the value at a grid order, in pico-nats.

        Raises:
            ValueError: the order is not on the grid.
        """
        if order not in _POSITION:
            raise ValueError(f"order {order:g} is not on grid {GRID_NAME}")
        return self.values[_POSITION[order]]

    def to_document(self) -> dict[str, object]:
        """Return the JSON form; whole numbers, so nothing is lost. Where no selection is charged, no δ is named."""
        document: dict[str, object] = {"grid": GRID_NAME, "pico_nats": list(self.values)}
        return {**document, "selection_delta": self.delta} if self.delta else document

    @classmethod
    def from_document(cls, document: dict[str, object]) -> RdpCurve:
        """Read ``to_document``'s form.

        Raises:
            LedgerIntegrityError: another grid, or not a curve.
        """
        values, delta = document.get("pico_nats"), document.get("selection_delta", 0)
        if document.get("grid") != GRID_NAME or not isinstance(values, list):
            raise LedgerIntegrityError(
                f"a stored curve is on grid {document.get('grid')!r}; known is {GRID_NAME}"
            )
        if type(delta) is not int:
            raise LedgerIntegrityError("a stored curve names a selection delta that is no whole number")
        return cls(tuple(values), delta)
