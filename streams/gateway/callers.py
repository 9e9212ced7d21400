"""Who asks through the gateway: a program of one tenant, and what its token allows."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Right(StrEnum):
    """What a token may do."""

    CHAT = "chat"  # ask for answers
    FEEDBACK = "feedback"  # say what became of them
    USERS = "users"  # say which of the tenant's users asks: a back end that has logged its users in


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Whose token a request carries; the tenant comes from here and from nowhere else.

    Attributes:
        tenant_id: the token's tenant.
        name: who uses the token, for the operator.
        rights: what it may do.
    """

    tenant_id: str
    name: str
    rights: frozenset[Right]

    def may(self, right: Right) -> bool:
        """Say whether the token allows something."""
        return right in self.rights

    def user(self, claimed: object) -> str | None:
        """Return the user that a request names, if this token's word counts for it.

        A field of a request is a claim; only a back end of the tenant, whose token has the right ``users``, may make
        it.
        """
        if not self.may(Right.USERS) or not isinstance(claimed, str):
            return None
        return (
            claimed if 0 < len(claimed) <= 256 and not any(ord(letter) < 32 for letter in claimed) else None
        )
