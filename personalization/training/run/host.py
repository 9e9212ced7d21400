"""A frozen base model that holds several plain PEFT adapters and answers with or without one of them.

What a serving system does with our adapters, in its smallest form: transformers loads the base, PEFT each
portable adapter beside it. One request at a time uses the model; callers on other threads wait.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

import torch
from transformers import AutoModelForCausalLM, LogitsProcessorList

from personalization.adapters.decoding import FAVOURED_BIAS, PRESENCE_PENALTY
from personalization.training.engine.encoding import Encoder
from personalization.training.engine.favoured import favoured
from personalization.training.engine.penalty import penalized
from personalization.training.errors import AdapterFormatError, BaseModelError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from personalization.training.engine.encoding import TokenRow

MAX_TOKENS = 192  # of one scored or answered text
ROWS_PER_BATCH = 16
ANSWERS_PER_BATCH = 32


class TokenReading(Protocol):
    """A text as token ids, and which next tokens are asked for after how many of them."""

    @property
    def tokens(self) -> Sequence[int]:
        """Return the ids, exactly as they are read."""

    @property
    def points(self) -> Sequence[tuple[int, Sequence[int]]]:
        """Return pairs of how many are read, and the watched ids."""


class AdapterHost:
    """One base model and the adapters that are loaded beside it, by name.

    Args:
        directory: base model with config, tokenizer and safetensors.
        threads: CPU threads of torch; ``None`` leaves the default.

    Raises:
        BaseModelError: the base cannot be loaded.
    """

    def __init__(self, directory: Path, *, threads: int | None = None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self._encoder = Encoder.load(directory)
        try:
            base = AutoModelForCausalLM.from_pretrained(directory, local_files_only=True, dtype=torch.float32)
        except (OSError, ValueError) as error:
            raise BaseModelError(f"no model could be loaded from {directory}: {error}") from error
        self._model: Any = base.eval()
        self._names: set[str] = set()
        self._lock = threading.Lock()

    precision = "float32"  # of the base, as manifests name tolerances

    @property
    def names(self) -> frozenset[str]:
        """Names of the adapters that are loaded."""
        return frozenset(self._names)

    def load(self, name: str, directory: Path) -> None:
        """Load the adapter in ``directory`` under ``name``; a name that is loaded already is refused.

        Raises:
            AdapterFormatError: the name is taken, or the files do not fit the base model.
        """
        from peft import PeftModel  # noqa: PLC0415  # a second to import, and only when there is an adapter

        if name in self._names:
            raise AdapterFormatError(
                f"an adapter named {name} is loaded already; a served name is never used twice"
            )
        with self._lock:
            try:
                if isinstance(self._model, PeftModel):
                    self._model.load_adapter(str(directory), adapter_name=name)
                else:
                    self._model = PeftModel.from_pretrained(
                        self._model, str(directory), adapter_name=name
                    ).eval()
            except (OSError, ValueError, RuntimeError, KeyError) as error:
                raise AdapterFormatError(
                    f"the adapter {name} does not fit the base model: {error}"
                ) from error
            self._names.add(name)

    def unload(self, name: str) -> None:
        """Forget the adapter ``name``; a name that is not loaded is no error."""
        with self._lock:
            if name not in self._names:
                return
            self._names.remove(name)
            if self._names:  # PEFT wants an active adapter at all times
                self._model.set_adapter(min(self._names))
                self._model.delete_adapter(name)
            else:
                self._model = self._model.unload()  # the plain base again

    def answers(
        self,
        prompts: Sequence[str],
        *,
        name: str | None,
        max_new_tokens: int = 48,
        favour: Sequence[str] = (),
    ) -> list[str]:
        """Return the greedy answer to each prompt, with the adapter ``name``; ``None`` is the base alone.

        An adapter's answers are decoded with ``PRESENCE_PENALTY``, the base's without any. Names in ``favour`` become
        likelier by ``FAVOURED_BIAS``, piece after piece.

        Raises:
            KeyError: no adapter of that name is loaded.
        """
        encoded = [self._encoder.prompt(prompt)[-MAX_TOKENS:] for prompt in prompts]
        order = sorted(range(len(encoded)), key=lambda index: len(encoded[index]))
        texts = [""] * len(encoded)
        penalty = 0.0 if name is None else PRESENCE_PENALTY
        with self._using(name) as model:
            for start in range(0, len(order), ANSWERS_PER_BATCH):
                batch = order[start : start + ANSWERS_PER_BATCH]
                answered = self._batch_answers(
                    model, [encoded[index] for index in batch], max_new_tokens, penalty, favour
                )
                for index, text in zip(batch, answered, strict=True):
                    texts[index] = text
        return texts

    def _batch_answers(
        self,
        model: Any,
        rows: Sequence[Sequence[int]],
        max_new_tokens: int,
        penalty: float,
        favour: Sequence[str],
    ) -> list[str]:
        """Return the greedy answers to one batch of prompts, padded on the left as generation wants it."""
        longest, end = max(len(row) for row in rows), self._encoder.end_token
        padding = [longest - len(row) for row in rows]
        out = model.generate(
            input_ids=torch.tensor([[end] * pad + list(row) for pad, row in zip(padding, rows, strict=True)]),
            attention_mask=torch.tensor([[0] * pad + [1] * (longest - pad) for pad in padding]),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            logits_processor=LogitsProcessorList(
                [
                    *(penalized(penalty, longest) or ()),
                    *favoured(self._encoder.tokenizer, favour, FAVOURED_BIAS, longest),
                ]
            ),
            eos_token_id=end,
            pad_token_id=end,
        )
        decoded = self._encoder.tokenizer.batch_decode(out[:, longest:], skip_special_tokens=True)
        return [str(text).strip() for text in decoded]

    def losses(self, pairs: Sequence[tuple[str, str]], *, name: str | None) -> list[float]:
        """Return the mean negative log-likelihood per completion token (nats) of each (prompt, completion).

        Raises:
            KeyError: no adapter of that name is loaded.
        """
        rows = [self._encoder.row(prompt, completion, MAX_TOKENS) for prompt, completion in pairs]
        order = sorted(range(len(rows)), key=lambda index: rows[index].length)  # little padding per batch
        result = [0.0] * len(rows)
        with self._using(name) as model:
            for start in range(0, len(order), ROWS_PER_BATCH):
                batch = order[start : start + ROWS_PER_BATCH]
                for index, loss in zip(batch, _batch_losses(model, [rows[i] for i in batch]), strict=True):
                    result[index] = loss
        return result

    def next_log_probabilities(self, asked: Sequence[TokenReading], *, name: str | None) -> list[float]:
        """Return the log-probability of every watched next token, reading by reading and point by point.

        Raises:
            KeyError: no adapter of that name is loaded.
        """
        found: list[float] = []
        with self._using(name) as model:
            for reading in asked:
                logits = model(input_ids=torch.tensor([list(reading.tokens)])).logits[0].float()
                for after, watched in reading.points:
                    told = torch.log_softmax(logits[after - 1], 0)
                    found += [float(told[token]) for token in watched]
        return found

    @contextmanager
    def _using(self, name: str | None) -> Iterator[Any]:
        with self._lock, torch.inference_mode():
            if name is None:
                with self._model.disable_adapter() if self._names else nullcontext():
                    yield self._model
            elif name in self._names:
                self._model.set_adapter(name)
                yield self._model
            else:
                raise KeyError(name)


def _batch_losses(model: Any, rows: Sequence[TokenRow]) -> list[float]:
    """Return the loss of each row of one right-padded batch; logits are made from the first label of all on."""
    longest = max(row.length for row in rows)
    tokens = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for index, row in enumerate(rows):
        tokens[index, : row.length] = torch.tensor(row.tokens[:-1])
        mask[index, : row.length] = 1
    first = min(row.first_label for row in rows) - 1
    logits = model(input_ids=tokens, attention_mask=mask, logits_to_keep=longest - first).logits
    losses = []
    for index, row in enumerate(rows):
        predicted = logits[index, row.first_label - 1 - first : row.length - first]
        wanted = torch.tensor(row.tokens[row.first_label :])
        losses.append(float(torch.nn.functional.cross_entropy(predicted.float(), wanted)))
    return losses
