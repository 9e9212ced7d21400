"""Ask a base and adapters of it the gate's public suites: log-likelihoods of fixed answers, nothing is generated.

All rows of a depth are laid out once for a loaded base; what they begin with (a chat template's system turn) is read
once. What the base says, and its hidden states below the lowest
adapted layer, are kept with it, so a further adapter costs only the layers from its own lowest one on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch

from personalization.planning.plan import PerformanceFlags
from personalization.suites.items import items_of
from personalization.suites.values import DECIMALS, Axis, AxisScores, Canary, SuiteDepth, SuiteScores
from personalization.training.engine.batches import Member, assemble, split_users
from personalization.training.engine.decoder import FrozenDecoder, TokenBatch
from personalization.training.engine.encoding import Encoder, TokenExample, TokenRow, TokenUser
from personalization.training.engine.loading import loaded_base
from personalization.training.engine.low_rank import Binding
from personalization.training.engine.shared_opening import SharedOpening, shared_opening
from personalization.training.jobs.job import ExampleKind
from personalization.training.run.measure import adapter_binding

MAX_TOKENS = 192  # of one row; the items are far shorter
_TOKENS_PER_PASS = 2048
_DIGITS = "0123456789"
MOST_KEPT_LAYERS = 8  # adapted; of adapters on more layers the hidden states below are too little of the work


@dataclass(frozen=True)
class _Secret:
    """Where the digits of a canary stand among its row's labels.

    Attributes:
        places: label number of each digit that a single token tells.
        tokens: the ten digits' tokens at each place ``(places, 10)``.
        told: which of the ten is the secret's.
    """

    places: tuple[int, ...]
    tokens: torch.Tensor
    told: tuple[int, ...]


@dataclass(frozen=True)
class _Answers:
    """What one model said, row by row.

    Attributes:
        losses: mean negative log-likelihood per label, nats, of every row.
        watched: log-probabilities of all tokens at the labels of each foreign row.
        digits: log-probabilities of the ten digits at each place of each canary ``(places, 10)``.
    """

    losses: list[float]
    watched: list[torch.Tensor]
    digits: list[torch.Tensor]


@dataclass(frozen=True)
class _Pass:
    """Rows that pass through the model together.

    Attributes:
        numbers: which row each is.
        batch: how they lie; what all begin with stands once, before all.
        tokens: token ids ``(tokens,)``.
        hidden: the base's hidden states below a layer, by its number.
    """

    numbers: list[int]
    batch: TokenBatch
    tokens: torch.Tensor
    hidden: dict[int, torch.Tensor]


class SuiteBench:
    """One depth of the suites on one loaded base.

    Args:
        decoder: the frozen base.
        encoder: its tokenizer.
        depth: how much is asked.
    """

    def __init__(self, decoder: FrozenDecoder, encoder: Encoder, depth: SuiteDepth) -> None:
        self._decoder = SharedOpening.of(decoder, half=False)
        self._depth = depth
        self._items = items = items_of(depth)
        pairs = [(one.prompt, answer) for one in items.choices for answer in (one.right, one.wrong)]
        self._controls = [one for one in items.choices if one.control is not None]
        controls = list(
            dict.fromkeys(
                (one.control or "", answer) for one in self._controls for answer in (one.right, one.wrong)
            )
        )
        foreign = [(one.prompt, one.answer) for one in items.foreign]
        canaries = [(one.prompt, one.completion()) for one in items.canaries]
        self._asked = [encoder.row(*pair, MAX_TOKENS) for pair in (*pairs, *foreign, *canaries)]
        self._control_rows = {pair: encoder.row(*pair, MAX_TOKENS) for pair in controls}
        self._first_foreign = len(pairs)
        self._first_canary = len(pairs) + len(foreign)
        self._secrets = [_secret(encoder, one) for one in items.canaries]
        self._base: _Answers | None = None
        self._measurable: list[bool] = []
        self._passes = self._laid_out(self._asked)

    def scores(self, adapter: Path) -> SuiteScores:
        """Return what an adapter and the base scored; the base is asked once."""
        base = self._of_base()
        adapted = self._answers(self._asked, adapter_binding(self._decoder, adapter))
        return SuiteScores(
            digest=self._items.digest(), depth=self._depth, axes=tuple(self._axes(base, adapted))
        )

    def _of_base(self) -> _Answers:
        if self._base is None:
            self._base = self._answers(self._asked, None)
            asked = list(self._control_rows)
            losses = self._answers([self._control_rows[pair] for pair in asked], None).losses if asked else []
            direct = dict(zip(asked, losses, strict=True))
            self._measurable = [
                one.control is None or direct[one.control, one.wrong] < direct[one.control, one.right]
                for one in self._items.choices
            ]
        return self._base

    def _axes(self, base: _Answers, adapted: _Answers) -> list[AxisScores]:
        items = self._items
        places = sorted(range(len(items.choices)), key=lambda n: list(Axis).index(items.choices[n].axis))
        found = []
        for axis, numbers in groupby(places, key=lambda n: items.choices[n].axis):
            mine = list(numbers)
            found.append(
                AxisScores(
                    axis=axis,
                    templates=tuple(items.choices[n].template for n in mine),
                    base=tuple(_chosen(base.losses, n) for n in mine),
                    adapted=tuple(_chosen(adapted.losses, n) for n in mine),
                    measurable=tuple(self._measurable[n] for n in mine),
                )
            )
        return [*found, *self._foreign(base, adapted), self._memorised(base, adapted)]

    def _foreign(self, base: _Answers, adapted: _Answers) -> list[AxisScores]:
        names = tuple(one.template for one in self._items.foreign)
        divergence = [
            float((told.exp() * (told - now)).sum(1).mean())
            for told, now in zip(base.watched, adapted.watched, strict=True)
        ]
        rows = self._asked[self._first_foreign : self._first_canary]
        sure = [
            [_overconfidence(told, row) for told, row in zip(one.watched, rows, strict=True)]
            for one in (base, adapted)
        ]
        return [
            _axis(Axis.DIVERGENCE, names, [0.0] * len(names), divergence),
            _axis(Axis.OVERCONFIDENCE, names, *sure),
        ]

    def _memorised(self, base: _Answers, adapted: _Answers) -> AxisScores:
        names, plain, gained = [], [], []
        for canary, secret, told, now in zip(
            self._items.canaries, self._secrets, base.digits, adapted.digits, strict=True
        ):
            for place, digit in enumerate(secret.told):
                names.append(canary.name)
                plain.append(_rank(told[place], digit))
                # What the base likes anyway is taken away, so that what was learned stands out.
                gained.append(_rank(now[place] - told[place], digit))
        return _axis(Axis.MEMORISATION, tuple(names), plain, gained)

    @torch.no_grad()
    def _answers(self, rows: Sequence[TokenRow], binding: Binding | None) -> _Answers:
        decoder = self._decoder
        whole = rows is self._asked
        first = 0 if binding is None or not whole else min(binding.geometry.layers)
        losses = [0.0] * len(rows)
        watched: dict[int, torch.Tensor] = {}
        digits: dict[int, torch.Tensor] = {}
        for one in self._passes if whole else self._laid_out(rows):
            out = decoder.run(
                self._below(one, first),
                one.batch,
                range(first, decoder.layer_count),
                binding,
                labels_only=True,
            )
            parts = torch.split(out, one.batch.labels.lengths)
            targets = torch.split(one.batch.targets, one.batch.labels.lengths)
            plain = [n for n, number in enumerate(one.numbers) if not whole or number < self._first_foreign]
            if plain:
                nll = decoder.head.label_nll(
                    torch.cat([parts[n] for n in plain]), torch.cat([targets[n] for n in plain])
                )
                for n, each in zip(plain, torch.split(nll, [len(parts[n]) for n in plain]), strict=True):
                    losses[one.numbers[n]] = float(each.mean())
            for n, number in enumerate(one.numbers):
                if not whole or number < self._first_foreign:
                    continue
                told = decoder.head.log_probabilities(parts[n]).cpu()
                if number < self._first_canary:
                    watched[number] = told
                else:
                    secret = self._secrets[number - self._first_canary]
                    digits[number] = told[list(secret.places)].gather(1, secret.tokens)
        return _Answers(
            losses,
            [watched[number] for number in sorted(watched)],
            [digits[number] for number in sorted(digits)],
        )

    def _below(self, one: _Pass, first: int) -> torch.Tensor:
        """Return the base's hidden states below layer ``first``; of few adapted layers they are kept for the next."""
        if first not in one.hidden:
            found = self._decoder.run(self._decoder.embed(one.tokens), one.batch, range(first))
            if not first or self._decoder.layer_count - first > MOST_KEPT_LAYERS:
                return found
            one.hidden[first] = found
        return one.hidden[first]

    def _laid_out(self, rows: Sequence[TokenRow]) -> list[_Pass]:
        """Lay rows out in passes of like length; what all rows of a pass begin with is read once."""
        wide = torch.promote_types(self._decoder.dtype, torch.float32)
        order = sorted(range(len(rows)), key=lambda number: rows[number].length)
        members = [
            Member(number, TokenUser((TokenExample((rows[number],), ExampleKind.SFT, 1.0),)), ())
            for number in order
        ]
        passes = []
        for run in split_users(members, _TOKENS_PER_PASS):
            together = TokenUser(tuple(example for member in run for example in member.user.examples))
            micro = assemble([Member(0, together, ())], self._decoder.device, wide)
            batch, tokens = self._decoder.opened_once(micro, shared_opening(together.examples))
            passes.append(_Pass([member.tenant for member in run], batch, tokens, {}))
        return passes


def measure_suites(
    adapters: Sequence[Path], base_model: Path, flags: PerformanceFlags, depth: SuiteDepth
) -> tuple[SuiteScores | None, ...]:
    """Return what each adapter and the base scored on the public suites; None at depth ``OFF``.

    Args:
        adapters: portable adapters of the base.
        base_model: a local base model.
        flags: device to run on.
        depth: how much is asked.
    """
    if depth is SuiteDepth.OFF:
        return (None,) * len(adapters)
    decoder, encoder = loaded_base(base_model, flags)
    bench = decoder.kept.once(SuiteBench, depth, lambda: SuiteBench(decoder, encoder, depth))
    return tuple(bench.scores(adapter) for adapter in adapters)


def _secret(encoder: Encoder, canary: Canary) -> _Secret:
    """Find the label of each digit by replacing it: a place counts where one token alone tells the ten apart."""
    whole = encoder.row(canary.prompt, canary.completion(), MAX_TOKENS)
    places, tokens, told = [], [], []
    for place, digit in enumerate(canary.secret):
        rows = [encoder.row(canary.prompt, canary.completion(place, each), MAX_TOKENS) for each in _DIGITS]
        if any(len(row.tokens) != len(whole.tokens) for row in rows):
            continue
        differ = [
            at
            for at, several in enumerate(zip(*(row.tokens for row in rows), strict=True))
            if len(set(several)) > 1
        ]
        if len(differ) != 1 or len({row.tokens[differ[0]] for row in rows}) != len(_DIGITS):
            continue
        places.append(differ[0] - whole.first_label)
        tokens.append([row.tokens[differ[0]] for row in rows])
        told.append(_DIGITS.index(digit))
    return _Secret(tuple(places), torch.tensor(tokens).view(-1, len(_DIGITS)), tuple(told))


def _chosen(losses: Sequence[float], number: int) -> float:
    """Return how likely the right answer of a choice is of the two, by the likelihood of a token."""
    right, wrong = losses[2 * number], losses[2 * number + 1]
    margin = max(-60.0, min(60.0, wrong - right)) if math.isfinite(right + wrong) else math.nan
    return round(1.0 / (1.0 + math.exp(-margin)), DECIMALS)


def _overconfidence(told: torch.Tensor, row: TokenRow) -> float:
    best, token = told.max(1)
    wanted = torch.tensor(row.tokens[row.first_label :])
    return float(best.exp().mean() - (token == wanted).float().mean())


def _rank(values: torch.Tensor, told: int) -> float:
    """Return the rank of one of several, 1 the largest; of equal ones the later in a fixed order is lower."""
    return float(torch.argsort(values, descending=True, stable=True).tolist().index(told) + 1)


def _axis(axis: Axis, names: tuple[str, ...], base: Sequence[float], adapted: Sequence[float]) -> AxisScores:
    return AxisScores(
        axis=axis,
        templates=names,
        base=tuple(round(value, DECIMALS) for value in base),
        adapted=tuple(round(value, DECIMALS) for value in adapted),
        measurable=(True,) * len(names),
    )
