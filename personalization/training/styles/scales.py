"""How strongly each module of a public part acts: users decide it, by one step of the round's own mechanism.

A public part is made of made-up text, so some of its modules say more of that text than of the tenant. The first step
of a plan with ``scaled_layers`` trains nothing else: one number for each linear layer in the upper layers, by which
what the public part adds there is multiplied, from 0 to 2. So few numbers feel less of the noise (at ε = 1 they do:
RESULTS, quality), and they reach where the private part, on the last block alone, does not. The step is taken in a
metric as the others are (``training.metric``), that of the card's made-up pairs: a module on which they hang is changed
with care.

Guarantee: the step is one of the ``plan.steps`` applications of the charged mechanism. A user's row is the gradient of
that user's own loss towards those numbers in a public metric, with zeros up to the size of the private part;
``run.fused`` draws, clips, sums and adds noise as in every step. What comes out of it, the scaled public part and the
base that the private part is then trained on, is a function of the noisy sum and of public numbers: post-processing. Of
each user one example is read, the first, which is enough for so few numbers and halves the time.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import torch

from personalization.planning.plan import Family, Objective, PerformanceFlags, TrainingPlan
from personalization.styles.synthesis import synthetic_pairs
from personalization.training.engine.batches import Member, MicroBatch, PrefixCache, assemble, split_users
from personalization.training.engine.encoding import TokenUser
from personalization.training.engine.families import Frozen, Geometry, Slot
from personalization.training.engine.low_rank import Binding
from personalization.training.jobs.job import Example, UserExamples
from personalization.training.metric.metric import whitening
from personalization.training.styles.foundation import MOST_HALVINGS, Foundation, merged, public_loss

if TYPE_CHECKING:
    from personalization.styles.card import StyleCard
    from personalization.training.engine.decoder import FrozenDecoder
    from personalization.training.engine.encoding import Encoder

DAMPING: Final = 1.0  # of the metric, as in a plan
RATE: Final = 0.5  # of a step in it
FARTHEST: Final = 1.0  # that a scale may come from 1: a module is at most left out, or doubled
PAIRS: Final = 24  # made-up pairs that the metric is taken on
_SEED: Final = 1  # of those, the first that the part was learned from; public


@dataclass(frozen=True, eq=False)
class PartScales:
    """The scales of a public part's upper modules, as the traces of cores between its factors.

    Attributes:
        foundation: the base with the public part, whose scales these are.
        geometry: a core on each of these modules; at zero it changes nothing.
        frozen: the public part's factors ``A (r, d_in)`` and ``Bᵀ (r, d_out)``.
        metric: the whitening ``(modules, modules)``, float64 on the CPU; public.
    """

    foundation: Foundation
    geometry: Geometry
    frozen: Frozen
    metric: torch.Tensor = field(init=False)

    @classmethod
    def of(
        cls,
        foundation: Foundation,
        card: StyleCard,
        private: Geometry,
        encoder: Encoder,
        plan: TrainingPlan,
        flags: PerformanceFlags,
    ) -> PartScales:
        """Lay the scales out on the plan's layers, and take the metric.

        Args:
            foundation: the base with the public part.
            card: which that is made of.
            private: layout of the private part, in whose rows these numbers travel, so there are no more of them.
            encoder: reads made-up pairs.
            plan: how many layers, and where an example is cut.
            flags: tokens of one pass.
        """
        decoder = foundation.decoder
        lowest = decoder.layer_count - plan.scaled_layers
        upper = [key for key in foundation.factors if key[0] >= lowest]  # in the model's order
        keys = upper[-private.size :]
        slots, frozen, count = [], {}, private.rank**2
        for at, key in enumerate(keys):
            down, up = foundation.factors[key]
            place = slice(at * count, (at + 1) * count)
            slots.append(Slot(*key, down.shape[1], up.shape[0], None, place))
            frozen[key] = (
                down.to(decoder.device, decoder.dtype),
                up.t().contiguous().to(decoder.device, decoder.dtype),
            )
        layers = tuple(range(keys[0][0], decoder.layer_count))
        size = len(keys) * count
        found = cls(
            foundation,
            Geometry(Family.CORE, private.rank, private.alpha, layers, tuple(slots), size),
            frozen,
        )
        made_up = [
            encoder.user(
                UserExamples(examples=(Example(prompt=one.prompt, completion=one.answer),)),
                bound=1,
                objective=Objective.SFT,
                max_tokens=plan.max_tokens,
            )
            for one in synthetic_pairs(card, count=PAIRS, seed=_SEED)
        ]
        half, limit = flags.half_products, flags.tokens_per_microbatch
        below = PrefixCache(decoder, found.first_layer, enabled=True, half=half, opening=encoder.opening)
        wide = torch.promote_types(decoder.dtype, torch.float32)
        texts = (
            assemble(run, decoder.device, wide)
            for run in split_users(below.fill([(0, one) for one in made_up], limit), limit)
        )
        slopes = torch.cat([found.slopes(decoder, below.hidden(micro), micro, half=half) for micro in texts])
        object.__setattr__(found, "metric", whitening(slopes.t() @ slopes / len(slopes), DAMPING).cpu())
        return found

    @property
    def modules(self) -> int:
        """How many numbers there are."""
        return len(self.geometry.slots)

    @property
    def first_layer(self) -> int:
        """The lowest layer with a scale."""
        return self.geometry.first_layer

    def slopes(
        self, decoder: FrozenDecoder, hidden: torch.Tensor, micro: MicroBatch, *, half: bool
    ) -> torch.Tensor:
        """Return the gradient of each user's own loss towards the scales ``(users, modules)``.

        Args:
            decoder: the base with the public part, and with what the private part starts from.
            hidden: the input of ``first_layer`` ``(tokens, width)``.
            micro: whole users of one tenant.
            half: whether the output head may be multiplied in bfloat16; by public numbers, and not where a plan learns
                from pairs.
        """
        geometry, users = self.geometry, len(micro.members)
        wide = torch.promote_types(decoder.dtype, torch.float32)
        cores = torch.empty((users, geometry.size), device=decoder.device, dtype=wide)
        start = torch.zeros((1, geometry.size), device=decoder.device, dtype=wide, requires_grad=True)
        binding = Binding(geometry, self.frozen, start, cores)
        layers = range(geometry.first_layer, decoder.layer_count)
        out = decoder.run(hidden, micro.batch, layers, binding, labels_only=True)
        nll = decoder.head.label_nll(out, micro.batch.targets, half=half)
        # The reference is where the step stands; of one example, another one changes a slope's length alone.
        reference = micro.terms.rows_nll(nll.detach()) if len(micro.terms.pairs) else None
        torch.autograd.backward(micro.terms.total(nll, reference))
        binding.check_complete()
        shape = (users, self.modules, geometry.rank, geometry.rank)
        return cores.view(shape).diagonal(dim1=2, dim2=3).sum(2)

    def rows(self, slopes: torch.Tensor, *, width: int, norm: float) -> torch.Tensor:
        """Return users' gradients in the metric, in units of the clipping norm, as rows of the mechanism.

        Args:
            slopes: ``(users, modules)``.
            width: of a row; zeros follow the scales.
            norm: the clipping norm.

        Returns:
            ``(users, width)``, not clipped yet.
        """
        turned = slopes @ self.metric.to(slopes)
        return torch.nn.functional.pad(turned * norm, (0, width - self.modules))

    def moved(self, mean: torch.Tensor) -> torch.Tensor:
        """Return how far each scale moves from 1, by users' noisy mean row in clipping norms ``(width,)``."""
        direction = self.metric @ mean[: self.modules].to(self.metric)
        return (-RATE * direction).clamp(-FARTHEST, FARTHEST)

    def scaled(
        self,
        change: torch.Tensor,
        plain: FrozenDecoder,
        encoder: Encoder,
        plan: TrainingPlan,
        flags: PerformanceFlags,
    ) -> Foundation:
        """Return the foundation with its public part scaled; less so where public text would lose too much by it.

        Args:
            change: of each scale ``(modules,)``.
            plain: the base without a public part; the scaled one is merged into it once, as a server does.
            encoder: reads public text.
            plan: its truncation.
            flags: tokens of one pass.
        """
        before = self.foundation
        facts = replace(before.facts, scaled=self.modules)  # the step is spent, whatever comes of it
        for halvings in range(MOST_HALVINGS + 1):
            by = dict(zip(self.frozen, (1.0 + 0.5**halvings * change).tolist(), strict=True))
            factors = {key: (down, by.get(key, 1.0) * up) for key, (down, up) in before.factors.items()}
            base = merged(plain, factors, self.geometry.scaling)
            if public_loss(base, encoder, plan, flags) <= before.limit:
                return replace(before, decoder=base, factors=factors, facts=facts)
        return replace(before, facts=facts)


def first_examples(members: list[Member]) -> list[Member]:
    """Return the members with their first example alone; each has one."""
    return [
        replace(
            one, user=TokenUser(one.user.examples[:1]), cached=one.cached[: len(one.user.examples[0].rows)]
        )
        for one in members
    ]
