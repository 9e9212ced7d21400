"""llama.cpp: adapters are files of its start, so the bridge runs the server and starts it anew for another set.

A version is converted to GGUF, started beside the server by itself (one bad file ends the whole start, and would take
every tenant down), and only then joins the others. Requests must name the scale of every adapter, this one 1 and the
others 0: without a list, or with an empty one, global scales count and cached prefixes of another adapter are used.
The server's numbers for adapters are those of one start; a request that spans two starts is cut off, never mixed.
"""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING, Any

from streams.errors import EngineLoadError, EngineUnreachableError
from streams.serving.engines.gguf_lora import convert
from streams.serving.engines.told import watched_values

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from streams.client import Reading
    from streams.serving.engines.gguf_lora import GgufBase
    from streams.serving.engines.llama_server import LlamaServer
    from streams.serving.engines.wire import EngineHttp

TOLD = 64
ADAPTER = "adapter.gguf"
MOST_KEPT = 1_000  # answers of the base, which every version's probes ask for again
DRAIN_SECONDS = 20.0  # for requests in progress before a restart
FIRST_START_PAUSE = 0.5


class LlamaCppEngine:
    """llama.cpp's server, run by the bridge.

    Args:
        server: what answers requests.
        trial: another one, for a version's first start by itself.
        base: of the served GGUF file.
        folder: for converted files; one directory per served name.
        capacity: most adapters at once.
        monotonic: seconds that only grow.
        sleep: waits.
    """

    kind = "llamacpp"
    tells = True
    mingles = False  # every request names the scale of each adapter

    def __init__(
        self,
        server: LlamaServer,
        trial: LlamaServer,
        *,
        base: GgufBase,
        folder: Path,
        capacity: int,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._server = server
        self._trial = trial
        self._base = base
        self._folder = folder
        self._monotonic = monotonic
        self._sleep = sleep
        self._wanted: dict[str, Path] = {}
        self._started: dict[str, Path] | None = None  # what the running server was started with
        self._base_told: dict[tuple[int, ...], dict[int, float]] = {}  # of this start's base, by what is read
        self._pause = FIRST_START_PAUSE
        self._next_start = 0.0
        self.generation = 0
        self.capacity = capacity
        self.precision = base.precision
        shutil.rmtree(folder, ignore_errors=True)  # every file is derived, and none outlives its server
        folder.mkdir(parents=True)

    def held(self) -> frozenset[str]:
        """Return the names that the running server lists; one that died is started again."""
        if self._started is None or not self._server.runs:
            self._restart()
        return frozenset(_numbers(self._server.http, self._folder))

    def load(self, name: str, directory: Path) -> None:
        """Convert an adapter and start it by itself; ``settle`` has it join the others.

        Raises:
            EngineLoadError: llama.cpp does not take the file.
            AdapterMisfitError: it does not fit the base.
            EngineUnreachableError: the trial does not answer.
        """
        self._wanted.pop(name, None)  # whatever the server did with an earlier file of this name
        file = convert(directory, self._folder / name / ADAPTER, self._base)
        try:
            self._trial.start({name: file})
            listed = _numbers(self._trial.http, self._folder)
        except EngineLoadError:
            self._remove(name)
            raise
        finally:
            self._trial.stop()
        if listed != {name: 0}:
            self._remove(name)
            raise EngineLoadError("llama.cpp does not list the adapter that it was started with")
        self._wanted[name] = file

    def unload(self, name: str) -> None:
        """Leave an adapter out from the next start on."""
        self._wanted.pop(name, None)

    def settle(self) -> None:
        """Start the server anew if another set is wanted, once nobody waits for an answer."""
        if self._started == self._wanted and self._server.runs:
            return
        end = self._monotonic() + DRAIN_SECONDS
        while self._server.runs and self._busy() and self._monotonic() < end:
            self._sleep(0.1)
        self._next_start = 0.0
        self._restart()

    def in_flight(self, name: str) -> int | None:
        """Return how many of the server's slots answer with an adapter now."""
        if self._started is None or name not in self._started:
            return 0
        number = _numbers(self._server.http, self._folder).get(name)
        return sum(
            any(
                one.get("id") == number and one.get("scale") for one in slot.get("params", {}).get("lora", ())
            )
            for slot in self._server.http.get("/slots")
            if slot.get("is_processing")
        )

    def next_log_probabilities(self, asked: Sequence[Reading], *, name: str | None) -> list[float]:
        """Return the log-probability of every watched token; raises as the protocol says."""
        numbers = _numbers(self._server.http, self._folder)
        if name is not None and name not in numbers:
            raise EngineUnreachableError("the engine does not hold the adapter any more")
        found: list[float] = []
        for reading in asked:
            for after, watched in reading.points:
                read = reading.tokens[:after]
                told = self._base_told.get(read) if name is None else None
                if told is None:
                    told = self._next_tokens(read, scales(numbers, name))
                if name is None and len(self._base_told) < MOST_KEPT:
                    self._base_told[read] = told
                found += watched_values(told, watched)
        return found

    def _next_tokens(self, read: tuple[int, ...], lora: list[dict[str, float]]) -> dict[int, float]:
        body = {
            "prompt": list(read),
            "n_predict": 1,
            "n_probs": TOLD,
            "temperature": 0,
            "cache_prompt": False,
            "lora": lora,
        }
        answer = self._server.http.ask("/completion", body)
        if answer.status != 200:
            raise EngineUnreachableError(f"llama.cpp answers a probe with status {answer.status}")
        return _told(answer.json())

    def close(self) -> None:
        """End both servers."""
        self._trial.stop()
        self._server.stop()

    def _busy(self) -> bool:
        try:
            return any(slot.get("is_processing") for slot in self._server.http.get("/slots"))
        except EngineUnreachableError:
            return False

    def _restart(self) -> None:
        """Start with what is wanted; a server that keeps dying is started with growing pauses."""
        if self._monotonic() < self._next_start:
            raise EngineUnreachableError("llama.cpp ended; it is started again in a moment")
        self.generation += 1
        self._started = None
        self._base_told.clear()
        self._next_start = self._monotonic() + self._pause
        self._pause = min(30.0, 2 * self._pause)
        try:
            self._server.start(self._wanted)
        except EngineLoadError as error:  # each of them was started by itself before
            raise EngineUnreachableError(f"llama.cpp did not start again: {error}") from None
        self._pause = FIRST_START_PAUSE
        self._started = dict(self._wanted)
        for path in self._folder.iterdir():
            if path.name not in self._wanted:
                shutil.rmtree(path, ignore_errors=True)

    def _remove(self, name: str) -> None:
        shutil.rmtree(self._folder / name, ignore_errors=True)


def scales(numbers: Mapping[str, int], name: str | None) -> list[dict[str, float]]:
    """Return what a request says of the adapters: 1 for the one that is asked for, 0 for all others."""
    return [{"id": number, "scale": float(one == name)} for one, number in sorted(numbers.items())]


def _numbers(http: EngineHttp, folder: Path) -> dict[str, int]:
    """Return the server's number of each adapter, by served name."""
    listed: Any = http.get("/lora-adapters")
    try:
        files = {folder / str(each["path"]): int(each["id"]) for each in listed}
        return {path.parent.name: number for path, number in files.items() if path.name == ADAPTER}
    except (KeyError, TypeError, ValueError):
        raise EngineUnreachableError("the engine does not list its adapters") from None


def _told(document: Any) -> dict[int, float]:
    try:
        (one,) = document["completion_probabilities"]
        return {int(each["id"]): float(each["logprob"]) for each in one["top_logprobs"]}
    except (KeyError, TypeError, ValueError):
        raise EngineUnreachableError("llama.cpp tells no log-probabilities") from None
