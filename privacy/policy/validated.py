"""Frozen values of a policy, whose refusals name the field, the value that was given and what is allowed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, ValidatorFunctionWrapHandler, model_validator

from privacy.errors import PolicyError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


def _spelled_out(error: ErrorDetails, prefix: str, allowed: Mapping[str, str]) -> tuple[str, str]:
    """Return the field of one pydantic error, and ``field is value; allowed is range``."""
    field = str(error["loc"][0]) if error["loc"] else ""
    name = ".".join(part for part in (prefix, field) if part)
    if error["type"] == "extra_forbidden":
        known = ", ".join(".".join(part for part in (prefix, other) if part) for other in allowed)
        return name, f"{name} is not a policy field; allowed are {known}"
    if error["type"] == "missing":
        return name, f"{name} is not given; allowed is {allowed[field]}"
    text = allowed.get(field, f"an object with {' and '.join(allowed)}")
    return name, f"{name or 'the policy'} is {error['input']!r}; allowed is {text}"


class Validated(BaseModel):
    """A frozen value whose refusals are ``PolicyError`` with the field, the value and the allowed range."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    @classmethod
    def allowed_ranges(cls) -> dict[str, str]:
        """Return what each field allows, in words."""
        return {name: field.description or "a value" for name, field in cls.model_fields.items()}

    @classmethod
    def _prefix(cls) -> str:
        return ""

    @model_validator(mode="wrap")
    @classmethod
    def _refuse_in_our_words(cls, data: Any, handler: ValidatorFunctionWrapHandler) -> Self:
        # PolicyError is no ValueError, so pydantic lets it pass unchanged to whoever builds the value.
        try:
            return handler(data)  # type: ignore[no-any-return]  # pydantic's handler is untyped
        except ValidationError as error:
            ranges = cls.allowed_ranges()
            # One sentence per field, even where pydantic tells of each item of a list.
            texts = dict(_spelled_out(detail, cls._prefix(), ranges) for detail in error.errors())
            raise PolicyError("; ".join(texts.values())) from None
