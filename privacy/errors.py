"""The base of every error that is raised on purpose, and the error tree of the privacy package.

    PrivacyError
    ├── PolicyError                  a policy value is outside its range (field, value, allowed range)
    │   ├── PolicyCeilingError       a policy value is above what the platform allows any tenant
    │   └── UnknownTenantError       no such tenant is registered
    ├── CalibrationError             no sound noise multiplier meets the request
    ├── LedgerError
    │   ├── BudgetExhaustedError     a filter refuses: asked, spent and cap are in the text
    │   ├── ReservationStateError    the reservation is not in the state the verb needs
    │   ├── FencedError              a lower lease epoch tried to write
    │   ├── RetryMismatchError       seed, data or code differ from the recorded draw
    │   ├── UnknownMechanismError    a stored or requested event type is not known to this version
    │   └── LedgerIntegrityError     the hash chain, a curve or a total does not match
    ├── BoundaryError                something would leave that has no mark
    ├── KeyUnavailableError          a key was destroyed (erasure) or cannot be unwrapped
    │   ├── KeyServiceError          the key service does not answer or refuses (retryable)
    │   └── KeyRotationError         a key cannot be rotated now, or not in this way
    └── StorageError                 the database cannot be reached or refused (retryable)
        ├── RewoundError             the database lies below what is anchored outside it: it was set back
        └── AnchorUnavailableError   the anchor cannot be read or did not confirm

The trees of privacy, personalization, training and streams grow from ``DiscreetError``; the client and the
contracts, which must stay light, have trees of the same shape. A text is one sentence, in lower case and without a
full stop, which the edge adds (``streams.cli.failures``): what was asked, what is allowed, what to do. It never holds
an id or text of a person.
"""

from __future__ import annotations

from typing import ClassVar


class DiscreetError(Exception):
    """Base of every error that is raised on purpose.

    Attributes:
        code: stable and machine-readable, ``package.noun.what``.
        retryable: whether the same call may succeed later with nothing changed.
        exit_status: what the command line returns.
    """

    code: ClassVar[str] = "discreet.error"
    retryable: ClassVar[bool] = False
    exit_status: ClassVar[int] = 1


class PrivacyError(DiscreetError):
    """Base of every error raised on purpose by this package."""

    code = "privacy.error"


class PolicyError(PrivacyError):
    """A policy value is outside its allowed range."""

    code = "privacy.policy.invalid"
    exit_status = 2


class PolicyCeilingError(PolicyError):
    """A policy value is above what the platform allows any tenant."""

    code = "privacy.policy.above_ceiling"


class UnknownTenantError(PolicyError):
    """No tenant of that name is registered."""

    code = "privacy.tenant.unknown"


class CalibrationError(PrivacyError):
    """No sound noise multiplier meets the request."""

    code = "privacy.calibration.impossible"
    exit_status = 2


class LedgerError(PrivacyError):
    """Base of the errors of the ledger."""

    code = "privacy.ledger.error"


class BudgetExhaustedError(LedgerError):
    """A filter refused a reservation; nothing was debited."""

    code = "privacy.budget.exhausted"
    exit_status = 3


class ReservationStateError(LedgerError):
    """The reservation is not in the state that the verb needs."""

    code = "privacy.reservation.state"


class FencedError(LedgerError):
    """A writer whose lease epoch is lower than the recorded one was refused."""

    code = "privacy.ledger.fenced"


class RetryMismatchError(LedgerError):
    """A retry came with another seed, other data or other code than the recorded draw."""

    code = "privacy.retry.mismatch"


class UnknownMechanismError(LedgerError):
    """An event type is not known to this version; it is refused, never skipped."""

    code = "privacy.mechanism.unknown"


class LedgerIntegrityError(LedgerError):
    """The hash chain, a stored curve or a total does not match the events."""

    code = "privacy.ledger.integrity"
    exit_status = 4


class BoundaryError(PrivacyError):
    """Something would leave a tenant's data that has no mark."""

    code = "privacy.boundary.unmarked"


class KeyUnavailableError(PrivacyError):
    """A key was destroyed by an erasure, is missing, or cannot be unwrapped with the configured master key."""

    code = "privacy.key.unavailable"


class KeyServiceError(KeyUnavailableError):
    """The key service did not answer, or refused; trying again may help."""

    code = "privacy.key.service"
    retryable = True
    exit_status = 5


class KeyRotationError(KeyUnavailableError):
    """A key cannot be rotated now, or not in this way; nothing was changed."""

    code = "privacy.key.rotation"
    exit_status = 2


class StorageError(PrivacyError):
    """The database could not be reached or refused the transaction; trying again may help."""

    code = "privacy.storage.unavailable"
    retryable = True
    exit_status = 5


class RewoundError(StorageError):
    """The database lies below what is anchored of it; ``discreet restore`` reconciles a backup that was restored."""

    code = "privacy.storage.rewound"
    exit_status = 6


class AnchorUnavailableError(StorageError):
    """The anchor outside the database cannot be read, or did not confirm what it was given."""

    code = "privacy.anchor.unavailable"
