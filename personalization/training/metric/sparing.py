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


def pulled_back(
    vector: torch.Tensor, styles: PublicCurvature, protected: PublicCurvature, gated: PublicCurvature
) -> torch.Tensor:
    """Return the adapter, moved back towards the base as far as public texts need it and where it costs least.

    With ``F`` the Fisher information on public interactions in many styles and ``P`` the protection of the protected
    texts, it is the minimum of ``(v − vector)ᵀF(v − vector) + κ·vᵀPv`` with the smallest tried κ for which the losses
    on both sets of public texts stay within their limits. All of it is public or already private, so it is
    post-processing, and a release's budget is never spent on something that the gate then refuses for the sake of
    public text.

    Along directions that no public text feels, steps in the metric are long, so the length is bounded as well.

    Args:
        vector: a released adapter ``(size,)``, float64 on the CPU.
        styles: public interactions.
        protected: public texts whose answers shall stay as they are.
        gated: the texts on which the gate measures.
    """
    vector = vector * min(1.0, LONGEST / max(float(torch.linalg.vector_norm(vector)), 1e-300))
    zero = torch.zeros_like(vector)
    at_base, kept = protected.fisher(zero).to(vector), protected.protection().to(vector)
    limits = [(texts, (1.0 + LARGEST_CHANGE) * texts.loss(zero)) for texts in (protected, gated)]
    foretold = LARGEST_FORETOLD_CHANGE * protected.loss(zero)

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
