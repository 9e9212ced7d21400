"""A bounded store that many tenants share: where it is full, whoever keeps most in it gives the oldest up.

A tenant alone may fill it, and loses what is beyond its share as soon as others need the room; so nobody's flood drives
out what others keep.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

Key = TypeVar("Key", bound="Hashable")
Value = TypeVar("Value")


class FairStore(Generic[Key, Value]):
    """Values by tenant and key; for one thread.

    Args:
        most: values of all tenants together.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._of: dict[str, OrderedDict[Key, Value]] = {}
        self._total = 0

    def __len__(self) -> int:
        return self._total

    def tenants(self) -> tuple[str, ...]:
        """Return who keeps something, the one who has for longest first."""
        return tuple(self._of)

    def get(self, tenant_id: str, key: Key) -> Value | None:
        """Return a value; ``None`` where there is none."""
        own = self._of.get(tenant_id)
        return None if own is None else own.get(key)

    def items(self, tenant_id: str) -> Iterator[tuple[Key, Value]]:
        """Yield what a tenant keeps, the oldest first; what is added or left meanwhile is not seen."""
        return iter(tuple(self._of.get(tenant_id, {}).items()))

    def put(self, tenant_id: str, key: Key, value: Value) -> None:
        """Keep a value; one of the same key keeps its age."""
        own = self._of.setdefault(tenant_id, OrderedDict())
        self._total += key not in own
        own[key] = value
        if self._total > self._most:
            self._give_up(tenant_id)

    def pop(self, tenant_id: str, key: Key) -> None:
        """Forget a value; one that is not there is no error."""
        own = self._of.get(tenant_id)
        if own is None or key not in own:
            return
        del own[key]
        self._total -= 1
        if not own:
            del self._of[tenant_id]

    def _give_up(self, newest: str) -> None:
        """Forget the oldest value of whoever put the last one if that is more than its share, else of who has most."""
        share = max(1.0, self._most / len(self._of))
        holder = newest
        if len(self._of[newest]) <= share:
            holder = max(self._of, key=lambda tenant_id: len(self._of[tenant_id]))
        self.pop(holder, next(iter(self._of[holder])))
