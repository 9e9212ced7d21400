"""Ask for the flag of a line: an operator's OpenFeature provider may lower it, and the kill switch always works.

Of the flag in the signed desired state and what the operator's provider says, the one that shows less holds. A provider
that fails, or does not know the line, changes nothing and is counted: the line goes on as its desired state says.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from itertools import count
from typing import TYPE_CHECKING, Final

from openfeature import api
from openfeature.evaluation_context import EvaluationContext
from openfeature.flag_evaluation import Reason

from personalization.rollouts.values import Flag
from streams.errors import SettingsError
from streams.flags.provider import FLAG_KEY, DesiredStateFlags

if TYPE_CHECKING:
    from collections.abc import Callable

    from openfeature.provider import FeatureProvider

GROUP: Final = "discreet.flag_providers"  # of entry points: each is a function without arguments, or a class
_NUMBERS: Final = count()  # OpenFeature's domains belong to the process, and a process may have two of us


class LineFlags:
    """Evaluates flags; one for each process.

    Args:
        flag_of: returns the flag in the desired state of a line, ``None`` for one that wants nothing served.
        operators: an operator's provider.
        failed: told when the operator's provider could not say.
    """

    def __init__(
        self,
        flag_of: Callable[[str], str | None],
        operators: FeatureProvider | None = None,
        failed: Callable[[], None] = lambda: None,
    ) -> None:
        number = next(_NUMBERS)
        own, theirs = f"discreet-own-{number}", f"discreet-operator-{number}"
        api.set_provider(DesiredStateFlags(flag_of), own)
        self._own = api.get_client(own)
        self._operators = None
        if operators is not None:
            api.set_provider(operators, theirs)
            self._operators = api.get_client(theirs)
        self._failed = failed

    def flag(self, line_ref: str, *, tenant_id: str, domain: str) -> Flag:
        """Return what a line may show now; a line that wants nothing served is off.

        Args:
            line_ref: the line's pseudonym, which is the targeting key.
            tenant_id: whose line, for an operator's rules.
            domain: which line, for an operator's rules.
        """
        asked = EvaluationContext(line_ref, {"tenant": tenant_id, "domain": domain})
        own = Flag.read(self._own.get_string_value(FLAG_KEY, Flag.OFF.value, asked))
        if self._operators is None or own is Flag.OFF:
            return own
        theirs = self._operators.get_string_details(FLAG_KEY, own.value, asked)
        if theirs.reason == Reason.ERROR:
            self._failed()
            return own
        return own.lesser(Flag.read(theirs.value))


def operators_provider(name: str) -> FeatureProvider | None:
    """Return the provider that an installed package offers under this name; ``None`` for no name.

    Raises:
        SettingsError: no package offers it.
    """
    if not name:
        return None
    found = {one.name: one for one in entry_points(group=GROUP)}
    if name not in found:
        raise SettingsError(
            f"no installed package offers the flag provider {name!r}; offered are {', '.join(sorted(found)) or 'none'} "
            f"(entry points of the group {GROUP})"
        )
    provider: FeatureProvider = found[name].load()()
    return provider
