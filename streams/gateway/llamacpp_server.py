"""llama.cpp's server as an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from streams.errors import AdapterGoneError, EngineAwayError, WrongAnswererError
from streams.gateway.upstreams import OpenAIUpstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from streams.gateway.upstreams import Call


class LlamaCppUpstream(OpenAIUpstream):
    """llama.cpp: adapters have numbers, which a restart gives anew, and every request must name them all.

    Without a list in the request the adapters' global scales count, and cached prefixes of another adapter's request
    are used. The file of a version is ``SERVED-NAME.gguf``, or lies in a directory of that name. The numbers are looked
    up again once the answer has begun: if they moved, it may be another adapter's, and it is thrown away.
    """

    applies_adapters = True
    constraint = "grammar"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._numbers: dict[str, int] | None = None

    async def held(self) -> frozenset[str]:
        """Return the served names of its adapters, and keep their numbers."""
        self._numbers = await self._look()
        return frozenset(self._numbers)

    async def whole(self, call: Call) -> dict[str, Any]:
        """Return the answer in one piece; see ``Upstream``."""
        if self._numbers is None:
            await self.held()
        return await super().whole(call)

    async def pieces(self, call: Call) -> AsyncIterator[dict[str, Any]]:
        """Yield the answer's pieces; see ``Upstream``."""
        if self._numbers is None:
            await self.held()
        async for piece in super().pieces(call):
            yield piece

    def body(self, call: Call, *, stream: bool) -> dict[str, Any]:
        """Return the request's body with the scale of every adapter: 1 for the one that is asked for, 0 for others."""
        body = super().body(call, stream=stream)
        numbers = self._numbers or {}
        if call.adapter is not None and call.adapter not in numbers:
            raise AdapterGoneError("the engine does not hold the adapter")
        if numbers:  # an empty list would mean the global scales
            body["lora"] = _scales(numbers, call.adapter)
        if call.grammar:
            body["grammar"] = call.grammar
        return body

    async def _check(
        self,
        call: Call,
        body: Mapping[str, Any],
        document: Mapping[str, Any],  # noqa: ARG002  # it names the base whoever answers
    ) -> None:
        self._numbers = await self._look()
        if body.get("lora", []) != _scales(self._numbers, call.adapter):
            raise WrongAnswererError("the engine's adapters were given other numbers meanwhile")

    async def _look(self) -> dict[str, int]:
        listed = await self._get("/lora-adapters")
        try:
            return {_served_name(str(each["path"])): int(each["id"]) for each in listed}
        except (TypeError, KeyError, ValueError):
            raise EngineAwayError("the engine does not list its adapters") from None


def _scales(numbers: Mapping[str, int], adapter: str | None) -> list[dict[str, float]]:
    return [{"id": number, "scale": float(name == adapter)} for name, number in sorted(numbers.items())]


def _served_name(path: str) -> str:
    *folders, file = path.replace("\\", "/").split("/")
    name = file.removesuffix(".gguf")
    return name if name.startswith("a-") or not folders else folders[-1]
