"""The errors of the contracts.

    ContractError
    ├── InvalidEventError        an event that was to be sent breaks its schema or a limit
    └── IncompatibleSchemaError  a schema could no longer read what its released version wrote

Reading never raises: a message from outside that breaks a rule becomes a value, ``Invalid`` (see ``codec``).
"""

from __future__ import annotations

from typing import ClassVar


class ContractError(Exception):
    """Base of the errors of the contracts."""

    code: ClassVar[str] = "contract.error"
    retryable: ClassVar[bool] = False
    exit_status: ClassVar[int] = 1


class InvalidEventError(ContractError):
    """An event that was to be sent breaks its schema or a limit; nothing was sent."""

    code = "contract.event.invalid"
    exit_status = 2


class IncompatibleSchemaError(ContractError):
    """A schema could no longer read everything that its released version accepts."""

    code = "contract.schema.incompatible"
    exit_status = 2
