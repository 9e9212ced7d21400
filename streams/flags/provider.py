"""Our own OpenFeature provider: the flag of each line, as its signed desired state says.

A flag is asked for a line and never for a person: the targeting key is the line's pseudonym, so no flag system, ours or
an operator's, learns who asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NoReturn

from openfeature.exception import ErrorCode, FlagNotFoundError, TypeMismatchError
from openfeature.flag_evaluation import FlagResolutionDetails, Reason
from openfeature.provider import AbstractProvider, Metadata

from personalization.rollouts.values import Flag

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from openfeature.evaluation_context import EvaluationContext
    from openfeature.flag_evaluation import FlagValueType

FLAG_KEY: Final = "discreet.line"


class DesiredStateFlags(AbstractProvider):
    """Answers from memory, so it never waits and never fails.

    Args:
        flag_of: returns the flag in the desired state of a line, ``None`` for a line that wants nothing served.
    """

    def __init__(self, flag_of: Callable[[str], str | None]) -> None:
        super().__init__()
        self._flag_of = flag_of

    def get_metadata(self) -> Metadata:
        """Name the provider."""
        return Metadata(name="discreet-desired-state")

    def resolve_string_details(
        self,
        flag_key: str,
        default_value: str,  # noqa: ARG002  # OpenFeature falls back to it itself
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[str]:
        """Return the flag of the line that the targeting key names.

        Raises:
            FlagNotFoundError: another flag is asked for, or a line that wants nothing served.
        """
        line_ref = None if evaluation_context is None else evaluation_context.targeting_key
        found = None if line_ref is None or flag_key != FLAG_KEY else self._flag_of(line_ref)
        if found is None:
            raise FlagNotFoundError("only the flags of lines that want something served are known here")
        flag = Flag.read(found)
        return FlagResolutionDetails(value=flag.value, variant=flag.value, reason=Reason.STATIC)

    def resolve_boolean_details(
        self, flag_key: str, default_value: bool, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[bool]:
        """Refuse: flags of lines are texts."""
        _refuse(flag_key, default_value, evaluation_context)

    def resolve_integer_details(
        self, flag_key: str, default_value: int, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[int]:
        """Refuse: flags of lines are texts."""
        _refuse(flag_key, default_value, evaluation_context)

    def resolve_float_details(
        self, flag_key: str, default_value: float, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[float]:
        """Refuse: flags of lines are texts."""
        _refuse(flag_key, default_value, evaluation_context)

    def resolve_object_details(
        self,
        flag_key: str,
        default_value: Sequence[FlagValueType] | Mapping[str, FlagValueType],
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[Sequence[FlagValueType] | Mapping[str, FlagValueType]]:
        """Refuse: flags of lines are texts."""
        _refuse(flag_key, default_value, evaluation_context)


def _refuse(*_asked: Any) -> NoReturn:
    raise TypeMismatchError(f"{ErrorCode.TYPE_MISMATCH.value}: ask for {FLAG_KEY} as a text")
