"""What a line's flag leaves of it for requests: everything, the first step's share, a silent candidate, or nothing."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from personalization.rollouts.values import Flag

if TYPE_CHECKING:
    from collections.abc import Callable

    from streams.flags.evaluating import LineFlags
    from streams.gateway.desired import Line

SECONDS: Final = (
    0.25  # so old may the word of an operator's provider be; the desired state's own flag is never old
)
MOST: Final = 100_000  # lines remembered


def under(line: Line, flag: Flag) -> Line:
    """Return what is left of a line under a flag."""
    if flag in {Flag.OFF, Flag.SHADOW}:
        return replace(line, flag=flag, candidate_percent=0.0)
    if flag is Flag.CANARY_ONLY:
        return replace(line, flag=flag, candidate_percent=min(line.candidate_percent, line.first_step))
    return line


class FlaggedLines:
    """Asks for the flag of a line, at most a few times a second; for one thread.

    Args:
        flags: evaluates them. A provider that waits for a server would hold up every request, so it must answer from
            memory.
        monotonic: seconds that only grow.
    """

    def __init__(self, flags: LineFlags, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._flags = flags
        self._monotonic = monotonic
        self._known: dict[str, tuple[float, Flag, Flag]] = {}

    def __call__(self, line: Line, tenant_id: str, domain: str) -> Line:
        """Return what is left of a line for a request now."""
        now = self._monotonic()
        until, own, flag = self._known.get(line.line_ref, (now, None, Flag.OFF))
        if until <= now or own is not line.flag:
            flag = self._flags.flag(line.line_ref, tenant_id=tenant_id, domain=domain)
            if len(self._known) >= MOST:
                self._known.clear()
            self._known[line.line_ref] = (now + SECONDS, line.flag, flag)
        return under(line, flag)
