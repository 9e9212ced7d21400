"""Micro-batches of whole users, and the cache of what the frozen layers below the adapter make of their rows."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, groupby

import numpy as np
import torch

from personalization.training.engine.decoder import FrozenDecoder, TokenBatch
from personalization.training.engine.encoding import TokenRow, TokenUser
from personalization.training.engine.losses import LossTerms
from personalization.training.engine.low_rank import TokenGroups
from personalization.training.engine.segments import Segments
from personalization.training.engine.shared_opening import SharedOpening

# Above this size the prefix cache is a memory-mapped temporary file.
PREFIX_BYTES_IN_MEMORY = 2 << 30


@dataclass(frozen=True)
class Member:
    """One drawn user of one tenant; ``cached`` says where its rows lie in the prefix cache.

    ``number`` is the user's place among the tenant's users, whichever of them are drawn.
    """

    tenant: int
    user: TokenUser
    cached: tuple[slice, ...]
    number: int = 0


@dataclass(frozen=True)
class MicroBatch:
    """Whole users that fit one pass.

    Attributes:
        members: the users, tenants together.
        tenants: tenant numbers present, ascending.
        batch: their tokens as segments.
        terms: how their label losses combine.
        tokens: token ids ``(tokens,)``.
    """

    members: list[Member]
    tenants: list[int]
    batch: TokenBatch
    terms: LossTerms
    tokens: torch.Tensor


def split_users(members: list[Member], token_limit: int) -> Iterator[list[Member]]:
    """Split drawn users into runs of about ``token_limit`` tokens; a user is never split.

    Which users are drawn is already decided, so this changes speed and memory, never the mechanism.
    """
    run: list[Member] = []
    tokens = 0
    for member in members:
        if run and tokens + member.user.tokens > token_limit:
            yield run
            run, tokens = [], 0
        run.append(member)
        tokens += member.user.tokens
    if run:
        yield run


def assemble(members: list[Member], device: torch.device, dtype: torch.dtype) -> MicroBatch:
    """Lay whole users, already ordered by tenant, out as one flat list of tokens.

    Args:
        members: users with at least one example each.
        device: where the tensors go.
        dtype: of the loss factors.
    """
    rows = [row for member in members for example in member.user.examples for row in example.rows]
    lengths = [row.length for row in rows]
    starts = np.cumsum([0, *lengths[:-1]])
    label_at = [
        np.arange(start + row.first_label - 1, start + row.length)
        for start, row in zip(starts, rows, strict=True)
    ]
    batch = TokenBatch(
        rows=Segments(lengths, device),
        groups=_groups(members, device, lambda row: row.length),
        positions=torch.from_numpy(np.concatenate([np.arange(length) for length in lengths])).to(device),
        label_at=torch.from_numpy(np.concatenate(label_at)).to(device),
        labels=Segments([row.labels for row in rows], device),
        label_groups=_groups(members, device, lambda row: row.labels),
        targets=torch.tensor(
            [token for row in rows for token in row.tokens[row.first_label :]], device=device
        ),
    )
    terms = LossTerms.of_users([member.user for member in members], device, dtype)
    tokens = torch.tensor([token for row in rows for token in row.tokens[:-1]], device=device)
    return MicroBatch(members, sorted({member.tenant for member in members}), batch, terms, tokens)


def _groups(members: list[Member], device: torch.device, size: Callable[[TokenRow], int]) -> TokenGroups:
    sizes = [
        (member.tenant, sum(size(row) for example in member.user.examples for row in example.rows))
        for member in members
    ]
    tenants = [sum(count for _, count in run) for _, run in groupby(sizes, key=lambda pair: pair[0])]
    return TokenGroups(Segments(tenants, device), Segments([count for _, count in sizes], device))


class PrefixCache:
    """Hidden states below the first adapted layer, computed once per row.

    The base is frozen there, so they are exact for every step; where that layer moves up, ``advance`` takes them on.
    They live in memory, or in an unlinked temporary file when they are large. With no layer to skip (all layers
    adapted) nothing is stored and tokens are embedded on the fly.

    Args:
        decoder: the frozen base.
        first_layer: the lowest adapted layer.
        enabled: whether to cache at all.
        half: whether to multiply in bfloat16 where the processor has instructions for it; for public texts alone.
        opening: tokens of the chat template that rows begin with, read once on a CPU for all rows of a pass that
            do. Public: what any user's rows hold beside it decides nothing about another's.
    """

    def __init__(
        self,
        decoder: FrozenDecoder,
        first_layer: int,
        *,
        enabled: bool,
        half: bool = False,
        opening: tuple[int, ...] = (),
    ) -> None:
        self._decoder = decoder
        self._half = half
        # A GPU attends over whole rows by a kernel of its own, in the base's own type; nothing was measured there.
        self._opening = opening if decoder.device.type == "cpu" else ()
        self._below = range(first_layer)
        self.enabled = enabled and first_layer > 0
        self._store: torch.Tensor | None = None
        self._filled: list[Member] = []

    def fill(self, users: list[tuple[int, TokenUser]], token_limit: int) -> list[Member]:
        """Compute and store the prefix of all rows of all users.

        Args:
            users: (tenant number, user) pairs in order.
            token_limit: tokens per pass.

        Returns:
            The users with the place of their rows.
        """
        members: list[Member] = []
        places: defaultdict[int, Iterator[int]] = defaultdict(count)
        at = 0
        for tenant, user in users:
            slices = []
            for row in (row for example in user.examples for row in example.rows):
                slices.append(slice(at, at + row.length))
                at += row.length
            members.append(Member(tenant, user, tuple(slices), next(places[tenant])))
        if not self.enabled or at == 0:
            return members
        self._store = self._allocate(at)
        # Rows of like length go together, so that attention's rectangle wastes little.
        self._filled = sorted((m for m in members if m.user.examples), key=lambda m: max(_row_lengths(m)))
        for run, micro, shared in self._passes(token_limit):
            self._store[_places(run)] = self._passed(micro, shared, self._below).to(self._store.device)
        return members

    def advance(self, decoder: FrozenDecoder, first_layer: int, token_limit: int) -> None:
        """Take what is stored on to a higher layer, of a base that is the same up to where it stands.

        Args:
            decoder: the base from here on.
            first_layer: the lowest adapted layer from here on; not below the one before.
            token_limit: tokens per pass.
        """
        layers = range(self._below.stop, first_layer)
        self._decoder, self._below = decoder, range(first_layer)
        if self._store is None:
            return
        for run, micro, shared in self._passes(token_limit):
            places = _places(run)
            entering = self._store[places].to(decoder.device)
            self._store[places] = self._passed(micro, shared, layers, entering).to(self._store.device)

    def _passes(self, token_limit: int) -> Iterator[tuple[list[Member], MicroBatch, int]]:
        """Yield users of one pass, their rows, and how many tokens these share."""
        opened = [member for member in self._filled if self._opening and _begin_with(member, self._opening)]
        plain = [
            member for member in self._filled if not (self._opening and _begin_with(member, self._opening))
        ]
        for alike, shared in ((opened, len(self._opening)), (plain, 0)):
            for run in split_users(alike, token_limit):
                yield run, assemble(run, self._decoder.device, torch.float32), shared

    @torch.inference_mode()
    def _passed(
        self, micro: MicroBatch, shared: int, layers: range, entering: torch.Tensor | None = None
    ) -> torch.Tensor:
        if shared:
            once = SharedOpening.of(self._decoder, half=False)
            return once.prefix(micro, shared, layers, half=self._half, entering=entering)
        hidden = self._decoder.embed(micro.tokens) if entering is None else entering
        return self._decoder.run(hidden, micro.batch, layers, half=self._half)

    def _allocate(self, tokens: int) -> torch.Tensor:
        shape = (tokens, self._decoder.width)
        size = torch.empty((), dtype=self._decoder.dtype).element_size()
        if self._decoder.device.type == "cuda" or tokens * shape[1] * size <= PREFIX_BYTES_IN_MEMORY:
            return torch.empty(shape, dtype=self._decoder.dtype, device=self._decoder.device)
        with tempfile.NamedTemporaryFile(prefix="discreet-prefix-") as file:
            file.truncate(tokens * shape[1] * size)
            return torch.from_file(
                file.name, shared=True, size=tokens * shape[1], dtype=self._decoder.dtype
            ).view(shape)

    def hidden(self, micro: MicroBatch) -> torch.Tensor:
        """Return the input of the first adapted layer for a micro-batch ``(tokens, width)``."""
        if self._store is not None:
            # One gather, however many rows there are.
            return self._store.index_select(0, _places(micro.members).to(self._store.device))
        with torch.no_grad():
            embedded = self._decoder.embed(micro.tokens)
            if not self._below:
                return embedded
            return self._decoder.run(embedded, micro.batch, self._below, half=self._half)


def _places(members: list[Member]) -> torch.Tensor:
    """Return where the tokens of whole users lie in the prefix cache."""
    return torch.from_numpy(
        np.concatenate([np.arange(s.start, s.stop) for member in members for s in member.cached])
    )


def _begin_with(member: Member, opening: tuple[int, ...]) -> bool:
    """Say whether all rows of a user begin with these tokens, and the token before the first label comes later."""
    rows = [row for example in member.user.examples for row in example.rows]
    size = len(opening)
    return all(row.first_label > size and row.tokens[:size] == opening for row in rows)


def _row_lengths(member: Member) -> list[int]:
    return [row.length for example in member.user.examples for row in example.rows]
