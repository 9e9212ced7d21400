"""What a tenant's private part is trained on: the plain base, with the tenant's public part merged in memory.

The public part sits on modules that the private part leaves alone, so the merged base with the private part is exactly
the plain base with both parts in one adapter. A public part whose loss on public text is above the limit is weakened
until it is not, before anything private is read. All that ``lay_foundation`` does is made of
public text and of a released card; ``styles.scales`` makes another foundation of a charged step.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import torch

from personalization.planning.plan import FEED_FORWARD, PerformanceFlags, TrainingPlan
from personalization.training.engine.batches import Member, assemble, split_users
from personalization.training.engine.decoder import FrozenDecoder
from personalization.training.engine.encoding import Encoder
from personalization.training.engine.families import Factors, Geometry
from personalization.training.jobs.job import PublicPartFacts, TenantJob
from personalization.training.metric.sparing import LARGEST_CHANGE
from personalization.training.public.texts import public_users
from personalization.training.styles.public_part import PublicPart, worth_making

MOST_HALVINGS: Final = 4  # of a public part that public text loses too much by; then it is left out

StepSink = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Foundation:
    """A base with one public part merged.

    Attributes:
        decoder: the merged base; what it keeps from run to run is its own.
        factors: of the public part.
        facts: what is known of it.
        limit: the largest mean loss on public text (nats a token) that any change of it may lead to.
    """

    decoder: FrozenDecoder
    factors: Factors
    facts: PublicPartFacts
    limit: float


@dataclass(frozen=True)
class _PublicLoss:
    """Of a base, kept beside it.

    Attributes:
        mean: over public texts (nats a token).
    """

    mean: float


def part_key(tenant: TenantJob) -> tuple[str, int, bool, str] | None:
    """Return what two tenants of one adapter shape share if their public part is the same; None where there is none.

    A public part is made where the card tells enough and the plan leaves all but the last block's feed-forward layers.
    Where users decide how strongly it acts, it is one tenant's alone.
    """
    plan, card = tenant.plan, tenant.card
    fits = plan.top_layers == 1 and set(plan.target_modules) == set(FEED_FORWARD)
    if card is None or not fits or not worth_making(card):
        return None
    return card.digest(), plan.max_tokens, tenant.notes, tenant.job_key if plan.scaled_layers else ""


def lay_foundation(
    decoder: FrozenDecoder, encoder: Encoder, tenant: TenantJob, flags: PerformanceFlags, on_step: StepSink
) -> Foundation | None:
    """Make and merge the public part of a tenant; None where there is none, or public text loses too much by it.

    Args:
        decoder: the plain base.
        encoder: its tokenizer.
        tenant: its plan, its card and whether it wants notes; nothing else is read.
        flags: tokens of one pass, and whether the output head may be multiplied in bfloat16.
        on_step: gets steps done and steps in all.
    """
    if part_key(tenant) is None or tenant.card is None:
        return None
    plan = tenant.plan
    private = Geometry.of_plan(plan, decoder.shapes, decoder.layer_count)
    # Learned on a copy in bfloat16 where that is faster; what is learned is merged into the base as it is.
    maker = PublicPart(decoder, encoder, private, max_tokens=plan.max_tokens, half=flags.half_products)
    factors, facts = maker.train(tenant.card, on_step, notes=tenant.notes)
    del maker
    # The plain base's loss is the same for every tenant of a job.
    plain = decoder.kept.once(
        _PublicLoss,
        (plan.max_tokens, plan.objective),
        lambda: _PublicLoss(public_loss(decoder, encoder, plan, flags)),
    )
    limit = (1.0 + LARGEST_CHANGE) * plain.mean
    for halvings in range(MOST_HALVINGS + 1):
        strength = 0.5**halvings
        weaker = {key: (down, strength * up) for key, (down, up) in factors.items()}
        base = merged(decoder, weaker, private.scaling)
        if public_loss(base, encoder, plan, flags) <= limit:
            facts = replace(facts, strength=strength)
            return Foundation(decoder=base, factors=weaker, facts=facts, limit=limit)
    return None


def merged(decoder: FrozenDecoder, factors: Factors, scaling: float) -> FrozenDecoder:
    """Return the base with ``scaling · B A`` added to its weights, in at least float32, as a base of its own.

    It shares every other parameter with the plain one, so it takes the memory of the changed weights alone. It knows no
    directory: what is kept beside the plain base (its subspaces) is not computed from this one.
    """
    changed = {id(decoder.linear(*key).weight) for key in factors}
    shared = {id(one): one for one in decoder.model.parameters() if id(one) not in changed}
    own = FrozenDecoder(copy.deepcopy(decoder.model, shared), decoder.device, decoder.dtype)
    for key, (down, up) in factors.items():
        weight = own.linear(*key).weight
        wide = torch.promote_types(weight.dtype, torch.float32)
        change = up.to(weight.device, wide) @ down.to(weight.device, wide)
        weight.data = weight.to(wide).add_(change, alpha=scaling).to(weight.dtype)
    return own


@torch.no_grad()
def public_loss(
    decoder: FrozenDecoder, encoder: Encoder, plan: TrainingPlan, flags: PerformanceFlags
) -> float:
    """Return the mean loss of a base on the texts that the gate measures, none of which was rehearsed."""
    users = [
        encoder.user(user, bound=1, objective=plan.objective, max_tokens=plan.max_tokens)
        for user in public_users()
    ]
    wide = torch.promote_types(decoder.dtype, torch.float32)
    total = 0.0
    for run in split_users([Member(0, user, ()) for user in users], flags.tokens_per_microbatch):
        micro = assemble(run, decoder.device, wide)
        hidden = decoder.embed(micro.tokens)
        out = decoder.run(hidden, micro.batch, range(decoder.layer_count), labels_only=True)
        total += float(micro.terms.total(decoder.head.label_nll(out, micro.batch.targets), None))
    return total / len(users)
