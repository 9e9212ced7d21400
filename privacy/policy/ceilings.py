"""What the platform allows any tenant's policy at most; set by who runs it, and above every tenant's own power.

A policy above a ceiling is refused when it is set. One that was set before the ceiling was lowered stays as it is, and
its rounds are declined until it is changed (``personalization.releases.protocol``): it spends nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from privacy.errors import PolicyCeilingError

if TYPE_CHECKING:
    from privacy.policy.values import TenantPrivacyPolicy


@dataclass(frozen=True, kw_only=True)
class PolicyCeilings:
    """The platform's bounds on what tenants may decide.

    Attributes:
        period_epsilon: most ε of a period.
        lifetime_epsilon: most ε of a lifetime.
        delta: largest δ, of a period and of a lifetime.
        contribution_bound: most signals of one user in one period.
        minimum_cohort: fewest users that a release may be trained on: the smallest that a policy may name.
        drift_share: most of a budget that readings of drift may take.
    """

    period_epsilon: float = 8.0
    lifetime_epsilon: float = 16.0
    delta: float = 1e-5
    contribution_bound: int = 100
    minimum_cohort: int = 10
    drift_share: float = 0.25

    def exceeded(self, policy: TenantPrivacyPolicy) -> tuple[str, ...]:
        """Return a text for each field of ``policy`` that is not allowed here; none where all are."""
        most = {
            "period_epsilon": self.period_epsilon,
            "lifetime_epsilon": self.lifetime_epsilon,
            "period_delta": self.delta,
            "lifetime_delta": self.delta,
            "contribution_bound": self.contribution_bound,
        }
        texts = [
            f"{name} is {getattr(policy, name):g}; the platform allows at most {limit:g}"
            for name, limit in most.items()
            if getattr(policy, name) > limit
        ]
        if policy.minimum_cohort < self.minimum_cohort:
            texts.append(
                f"minimum_cohort is {policy.minimum_cohort}; the platform allows no fewer than {self.minimum_cohort}"
            )
        if policy.drift.share > self.drift_share:
            texts.append(
                f"drift.share is {policy.drift.share:g}; the platform allows at most {self.drift_share:g}"
            )
        return tuple(texts)

    def check(self, policy: TenantPrivacyPolicy) -> None:
        """Refuse a policy that is above a ceiling.

        Raises:
            PolicyCeilingError: it is; the text names every field.
        """
        if texts := self.exceeded(policy):
            raise PolicyCeilingError("; ".join(texts))
