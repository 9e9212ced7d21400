"""How threads of torch wait for one another where the processor is shared with the worker and whatever else runs."""

from __future__ import annotations

from typing import Final

# Both are read when torch is imported. Idle threads sleep instead of spinning for ever; but not at once, since the next
# of the thousands of small products of a pass follows within a fraction of a millisecond, and waking takes as long.
WAITING: Final = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "20000"}
