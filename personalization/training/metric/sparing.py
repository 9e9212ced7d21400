"""Moving adapters to where public texts lose little: every iterate a bit, a release as far as it must.

All of it is computed from public texts and from adapters that are already private, so it is post-processing.
"""

from __future__ import annotations

from bisect import bisect_left

import torch

from personalization.training.metric.curvature import PublicCurvature

LONGEST = 200.0  # L2 length of an adapter in the numbers of its core; SmolLM2 needs some 20, the gate refuses at 1,000
LARGEST_CHANGE = 0.008  # of the loss on public texts; the gate refuses from 1 % on, as it is set by default
# The same as the curvature of the protected texts foretells it: what a new text loses on average, while the luck of
# single texts, which a mean over a few dozen of them still shows, is left out.
LARGEST_FORETOLD_CHANGE = 0.0045
STEP_PULL = 8.0  # times the damping: how strongly every iterate is drawn to what spares public texts; noise needs more
PULLS = tuple(2.0**power for power in range(-12, 9))


def step_pull(fisher: torch.Tensor, damping: float, protection: torch.Tensor) -> torch.Tensor:
    """Return ``(F + λ + κP)⁻¹(F + λ)`` in float64, which moves an iterate, with κ = ``STEP_PULL × damping``.

    Args:
        fisher: ``(size, size)``, checked by ``whitening``.
        damping: as in ``whitening``.
        protection: P, ``(size, size)``.
    """
    wide = fisher.double()
    level = max(damping * float(torch.diagonal(wide).mean()), torch.finfo(torch.float64).tiny)
    steady = wide + level * torch.eye(len(wide), dtype=wide.dtype, device=wide.device)
    moving: torch.Tensor = torch.linalg.solve(steady + STEP_PULL * damping * protection.to(steady), steady)
    return moving


def bounded(vector: torch.Tensor) -> torch.Tensor:
    """Return the adapter, shortened to the longest that is released.

    Along directions that no public text feels, steps in the metric are long.
    """
    return vector * min(1.0, LONGEST / max(float(torch.linalg.vector_norm(vector)), 1e-300))


def pulled_back(
    vector: torch.Tensor,
    styles: PublicCurvature,
    protected: PublicCurvature,
    gated: PublicCurvature,
    plain: tuple[float, float] | None = None,
) -> torch.Tensor:
    """Return the adapter, moved back towards the base as far as public texts need it and where it costs least.

    With ``F`` the Fisher information on public interactions in many styles and ``P`` the protection of the protected
    texts, it is the minimum of ``(v − vector)ᵀF(v − vector) + κ·vᵀPv`` with the smallest tried κ for which the losses
    on both sets of public texts stay within their limits. All of it is public or already private, so it is
    post-processing, and a release's budget is never spent on something that the gate then refuses for the sake of
    public text.

    The length is bounded as well.

    Args:
        vector: a released adapter ``(size,)``, float64 on the CPU.
        styles: public interactions.
        protected: public texts whose answers shall stay as they are.
        gated: the texts on which the gate measures.
        plain: losses of the plain base on both, where the curvatures are those of a base that a public part is merged
            into; limits are then reckoned from these.
    """
    vector = bounded(vector)
    zero = torch.zeros_like(vector)
    at_base, kept = protected.fisher(zero).to(vector), protected.protection().to(vector)
    at_zero = (protected.loss(zero), gated.loss(zero))
    # Where the merged base itself is above a limit, what it has there is the limit: pulling back ends there.
    limits = [
        (texts, max(own, (1.0 + LARGEST_CHANGE) * before))
        for texts, own, before in zip((protected, gated), at_zero, plain or at_zero, strict=True)
    ]
    before = plain or at_zero
    # What the public part gained on texts that it did not rehearse may be used up again.
    foretold = LARGEST_FORETOLD_CHANGE * before[0] + max(0.0, before[1] - at_zero[1])

    def spares(one: torch.Tensor) -> bool:
        return 0.5 * float(one @ at_base @ one) <= foretold and all(
            texts.loss(one) <= limit for texts, limit in limits
        )

    if spares(vector):
        return vector
    fisher = styles.fisher(vector).to(vector)
    steady = fisher + 1e-3 * torch.diagonal(fisher).mean() * torch.eye(len(fisher), dtype=fisher.dtype)

    def pulled(strength: float) -> torch.Tensor:
        moved: torch.Tensor = torch.linalg.solve(steady + strength * kept, steady @ vector)
        return moved

    # A stronger pull spares more, so the weakest that spares enough is found by halving.
    place = bisect_left(PULLS, True, key=lambda strength: spares(pulled(strength)))
    found = pulled(PULLS[min(place, len(PULLS) - 1)])
    while not spares(found):  # zero, the base itself, does
        found = found / 2.0
    return found
