"""``consent.granted.v1`` and ``consent.withdrawn.v1``: what a user agreed to, per purpose."""

from __future__ import annotations

from enum import StrEnum

from .fields import Moment, NoticeVersion, TenantId, UserId, WireModel


class ConsentPurpose(StrEnum):
    """What interactions may be used for; each needs its own consent."""

    TRAINING = "training"  # train the tenant's adapter
    EVALUATION = "evaluation"  # measure an adapter on held-out users
    SHARING = "sharing"  # let the tenant's released adapter enter the shared start of other tenants


class ConsentV1(WireModel):
    """A user's decision on one purpose. The event type says whether it was granted or withdrawn."""

    tenant_id: TenantId
    user_id: UserId
    purpose: ConsentPurpose
    notice_version: NoticeVersion
    occurred_at: Moment
    """When the user decided; of two decisions on one purpose the later one counts. A grant dated more than ten minutes
    ahead of the worker's clock is refused; a withdrawal dated ahead counts at once."""
