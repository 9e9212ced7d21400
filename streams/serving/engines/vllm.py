"""vLLM: adapters are loaded and forgotten while it runs, by name and path; requests ask for a name as the model.

Start it with ``VLLM_ALLOW_RUNTIME_LORA_UPDATING=True``, ``--enable-lora``, ``--max-lora-rank`` and ``--max-cpu-loras``,
and keep its port private: some of its routes load adapters without a key. What its documents do not say (it was seen):
a load of nonsense is answered with 200, so nothing is believed that a probe did not show; a name loaded again with
other bytes answers out of a stale cache, so a name is never used twice and nothing is loaded in place; a directory that
is deleted while its name is listed ends the whole server at the next request; and so does, on CPUs, a request for
``prompt_logprobs`` in one batch with another of an adapter, so probes ask for the next token alone, as clients do.

**On CPUs (0.32.0) a request to the base that is computed in one batch with one to an adapter is answered with an
adapter**: its kernels take "none" for the last place. No route can mend that, so there it runs one request at a time
(``--max-num-seqs 1``, which the command of ``install.py`` has). A bridge finds it out by asking several questions at
once (``proving.py``) and then leaves no adapter there: the base is answered rightly where no batch can have one.
"""

from __future__ import annotations

import re
import secrets
import time
from typing import TYPE_CHECKING, Any

from streams.errors import EngineLoadError, EngineUnreachableError
from streams.serving.engines.told import watched_values

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from streams.client import Reading
    from streams.serving.engines.wire import EngineHttp

MOST_TOLD = 20  # of log-probabilities; what vLLM allows by default
LOOK_SECONDS = 1.0  # between two looks at when the server began
_RUNNING = re.compile(r"^vllm:lora_requests_info\{(?P<labels>.*)\} (?P<at>\S+)$", re.MULTILINE)
_BEGAN = re.compile(r"^process_start_time_seconds (?P<at>\S+)$", re.MULTILINE)
_NAMES = re.compile(r'(?:running|waiting)_lora_adapters="([^"]*)"')


class VllmEngine:
    """One vLLM server.

    Args:
        http: its address and key.
        model: name of the base there.
        capacity: its ``--max-cpu-loras``.
        precision: of its base.
        monotonic: seconds that only grow.

    Attributes:
        generation: grows with each start that its metrics tell of; a server that has none is known by its gone names.
    """

    kind = "vllm"
    tells = True
    mingles = True

    def __init__(
        self,
        http: EngineHttp,
        *,
        model: str,
        capacity: int,
        precision: str,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._http = http
        self._model = model
        self._monotonic = monotonic
        self._look_at = float("-inf")
        self._began = ""
        self.generation = 0
        self.capacity = capacity
        self.precision = precision

    def held(self) -> frozenset[str]:
        """Return the names that it lists besides its base."""
        if self._monotonic() >= self._look_at:
            self._look_at = self._monotonic() + LOOK_SECONDS
            self._note_start(self._told())
        listed = self._http.get("/v1/models")
        try:
            return frozenset(str(each["id"]) for each in listed["data"] if each.get("parent") is not None)
        except (KeyError, TypeError, AttributeError):
            raise EngineUnreachableError("the engine does not list its models") from None

    def load(self, name: str, directory: Path) -> None:
        """Load an adapter; raises as the protocol says."""
        answer = self._http.ask(
            "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(directory.resolve())}
        )
        if answer.status == 400:  # it holds the name and did not list it: what it holds, nobody knows
            self.unload(name)
        if answer.status != 200:
            raise EngineLoadError(f"vLLM refused the adapter with status {answer.status}")

    def unload(self, name: str) -> None:
        """Forget a name; one that is not there is no error."""
        answer = self._http.ask("/v1/unload_lora_adapter", {"lora_name": name})
        if answer.status not in {200, 400, 404}:  # 400 and 404: it holds no such name
            raise EngineUnreachableError(f"vLLM did not unload with status {answer.status}")

    def settle(self) -> None:
        """Do nothing: loads and unloads act at once."""

    def in_flight(self, name: str) -> int | None:
        """Return whether requests with the adapter run or wait, as its metrics say; None where they do not."""
        samples = list(_RUNNING.finditer(self._told()))
        if not samples:
            return None
        newest = max(samples, key=lambda sample: float(sample["at"]))  # the value is when it was written
        names = [one for listed in _NAMES.findall(newest["labels"]) for one in listed.split(",")]
        return names.count(name)

    def next_log_probabilities(self, asked: Sequence[Reading], *, name: str | None) -> list[float]:
        """Return the log-probability of every watched token; raises as the protocol says."""
        found: list[float] = []
        for reading in asked:
            body = {
                "model": name or self._model,
                "prompt": [list(reading.tokens[:after]) for after, _ in reading.points],
                "max_tokens": 1,
                "temperature": 0,
                "logprobs": MOST_TOLD,
                "return_tokens_as_token_ids": True,
                "cache_salt": secrets.token_hex(
                    32
                ),  # read by the weights that are asked about, not found in a cache
            }
            answer = self._http.ask("/v1/completions", body)
            if answer.status != 200:
                kind = EngineUnreachableError if name is None or answer.status >= 502 else EngineLoadError
                raise kind(f"vLLM answers a probe with status {answer.status}")
            try:
                document: Any = answer.json()
                if document["model"] != body["model"]:
                    raise EngineUnreachableError("another model answered than was asked")
                choices = sorted(document["choices"], key=lambda choice: int(choice["index"]))
                for (_, watched), choice in zip(reading.points, choices, strict=True):
                    (entry,) = choice["logprobs"]["top_logprobs"]
                    told = {_token(shown): float(value) for shown, value in entry.items()}
                    if len(told) > 1:  # besides the likeliest it tells the token that it took
                        told = dict(sorted(told.items(), key=lambda pair: -pair[1])[:MOST_TOLD])
                    found += watched_values(told, watched)
            except (KeyError, TypeError, ValueError, IndexError, AttributeError):
                raise EngineUnreachableError("vLLM tells no log-probabilities") from None
        return found

    def close(self) -> None:
        """Do nothing: the server is not ours to end."""

    def _told(self) -> str:
        """Return what its metrics say; nothing where it has none."""
        answer = self._http.ask("/metrics")
        return answer.body.decode(errors="replace") if answer.status == 200 else ""

    def _note_start(self, told: str) -> None:
        found = _BEGAN.search(told)
        if found is not None and found["at"] != self._began:
            self.generation += bool(self._began)
            self._began = found["at"]


def _token(shown: str) -> int:
    """Return the number of a token that is told as ``token_id:N``."""
    word, _, number = shown.partition(":")
    if word != "token_id":
        raise ValueError("tokens are told by other names")
    return int(number)
