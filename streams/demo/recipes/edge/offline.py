"""A machine without a network: llama.cpp on an exported directory, and events that wait on its disk."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from personalization.adapters.decoding import PRESENCE_PENALTY
from streams.errors import EngineUnreachableError
from streams.serving.engines.llama_server import LlamaServer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Self

BASE, ADAPTER = "base.gguf", "adapter.gguf"


class OfflineEngine:
    """llama.cpp on the loopback, asked as the exported directory's README says; a context manager.

    Args:
        command: program and arguments that start llama.cpp's server, up to its model.
        directory: an exported one.
        log: for what the server says.

    Attributes:
        tokens: that were generated.
        seconds: that it took, with reading the prompts.
    """

    def __init__(self, command: Sequence[str], directory: Path, log: Path) -> None:
        self._adapter = directory / ADAPTER
        self._server = LlamaServer((*command, "-m", str(directory / BASE)), port=0, key="", log=log)
        self.tokens, self.seconds = 0, 0.0

    def __enter__(self) -> Self:
        self._server.start({"adapter": self._adapter})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop()

    def answers(self, prompts: Sequence[str], model: str | None, *, max_new_tokens: int) -> list[str]:
        """Return the answer to each prompt, one after the other; ``None`` asks the base.

        Raises:
            EngineUnreachableError: an answer did not come.
        """
        return [self._answer(prompt, model, max_new_tokens) for prompt in prompts]

    def _answer(self, prompt: str, model: str | None, tokens: int) -> str:
        body: dict[str, object] = {
            "messages": [{"role": "user", "content": prompt}],
            "lora": [{"id": 0, "scale": 0.0 if model is None else 1.0}],
            "max_tokens": tokens,
            "temperature": 0,
            "cache_prompt": False,
        }
        if model is not None:
            body["presence_penalty"] = PRESENCE_PENALTY  # as gateways and ``discreet serve`` do
        started = time.monotonic()
        answer = self._server.http.ask("/v1/chat/completions", body)
        if answer.status != 200:
            raise EngineUnreachableError(f"llama.cpp answers with status {answer.status}")
        document = answer.json()
        self.seconds += time.monotonic() - started
        self.tokens += int(document["usage"]["completion_tokens"])
        return str(document["choices"][0]["message"]["content"])
