"""Which of a tenant's lines answers a request that names none of them: the SDK's router over what lines want served.

A tenant with one line is never routed. Prototypes come from prompts that operators wrote, else from the prompt forms of
the line's released style card; nothing of a request is kept.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import orjson
import structlog

from personalization.adapters.manifest import AND
from personalization.errors import PersonalizationError
from personalization.rollouts.values import Flag
from personalization.styles.card import StyleCard
from personalization.styles.synthesis import synthetic_pairs
from streams.client.errors import PrototypeError
from streams.client.routing import Level, Prototype, RouteLine, Router, prototype_of
from streams.errors import SettingsError
from streams.gateway.answers import ROUTE_HEADERS
from streams.gateway.requests import DEFAULT_DOMAIN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from streams.client.routing import Encoder, Route, RouterSettings
    from streams.gateway.desired import Line, Version
    from streams.gateway.directory import Directory
    from streams.gateway.requests import Ask

log = structlog.get_logger(__name__)

EVERYBODY: Final = "*"
CARD_PROMPTS: Final = 48
MOST_WAITING: Final = 16  # prompts whose meaning is read, each in some ten milliseconds
MOST_CARDS: Final = 10_000  # whose prototypes are kept, 16 KiB each
Prototypes = dict[tuple[str, str], Prototype]


@dataclass(frozen=True, kw_only=True)
class Routed:
    """Where a request goes.

    Attributes:
        domain: of the line that is asked; the default one where no domain line was chosen. Of a pair, the one that
            fits better: feedback counts for it.
        serves: domain of the line that answers: the pair's own.
        route: the decision, which explains itself.
        wanted: the line that fits, where its adapter has to be loaded first.
    """

    domain: str
    serves: str
    route: Route
    wanted: Line | None = None

    def headers(self) -> dict[str, str]:
        """Return the decision as headers; nothing of the prompt is in them."""
        route = self.route
        best = route.candidates[0].prototype_version if route.candidates else "none"
        chosen = route.level in {Level.DOMAIN, Level.PAIR}
        named = f"{route.level.value}/{self.serves}" if chosen else route.level.value
        version = f"{route.features_version} {best}"
        values = (named, route.reason.value, _number(route.score), _number(route.margin), version)
        return dict(zip(ROUTE_HEADERS, values, strict=True))


class DomainRouting:
    """Routes requests by their prompts; for one event loop.

    Args:
        written: prototypes of operators' prompts, by tenant (or ``EVERYBODY``) and domain; ``None`` routes nothing.
        settings: public limits of the router.
        noted: told the level and the reason of each decision.
        encoder: reads what prompts mean, in a thread; ``None``: words decide alone.
    """

    def __init__(
        self,
        written: Prototypes | None,
        settings: RouterSettings,
        noted: Callable[[str, str], None],
        encoder: Encoder | None = None,
    ) -> None:
        self._encoder = encoder
        self._reading = None if encoder is None else ThreadPoolExecutor(1, "discreet-meaning")
        self._waiting = 0  # prompts that are read or wait for it
        self._on = written is not None
        self._written = written or {}
        self._router = Router(settings)
        self._noted = noted
        self._of_cards: dict[bytes, Prototype | None] = {}
        self._held: dict[str, tuple[tuple[str, str, str], ...]] = {}

    async def meaning(self, tenant_id: str, directory: Directory, ask: Ask) -> NDArray[np.float32] | None:
        """Return what a prompt means, where that has to be read before it is routed; one prompt at a time.

        Where many wait already, or it cannot be read, words decide alone: routing holds no request up for long.
        """
        prompt, several = ask.prompt, len(directory.lines.get(tenant_id, {})) > 1
        if self._encoder is None or not prompt or not several or ask.domain != DEFAULT_DOMAIN:
            return None
        if not self._router.unsure(tenant_id, prompt):
            return None
        if self._waiting >= MOST_WAITING:
            return None
        self._waiting += 1
        try:
            read = asyncio.get_running_loop().run_in_executor(self._reading, self._encoder.embed, [prompt])
            vector: NDArray[np.float32] = (await read)[0]
        except Exception as error:  # noqa: BLE001  # a library's own words may hold what somebody wrote
            log.error("meaning_not_read", error=type(error).__name__)  # noqa: TRY400  # as above
            return None
        finally:
            self._waiting -= 1
        return vector

    def route(
        self,
        tenant_id: str,
        lines: Mapping[str, str],
        prompt: str | None,
        *,
        line: Callable[[str, str], Line | None],
        loaded: Callable[[str], bool],
        meaning: NDArray[np.float32] | None = None,
    ) -> Routed | None:
        """Return where a request goes; ``None`` leaves it: routing is off, one line, no prompt, no known domain.

        Args:
            tenant_id: whose request.
            lines: the tenant's own, by domain; no other is ever looked at.
            prompt: its text; ``None`` where there is no single one.
            line: returns what the line of a domain wants served, as far as its flag lets it.
            loaded: says whether a served name can be had now.
            meaning: of the prompt, where it was read.
        """
        if not self._on or len(lines) < 2 or prompt is None:
            return None
        served = {
            domain: version
            for domain, ref in lines.items()
            if (wanted := line(domain, ref)) is not None
            and wanted.flag is not Flag.OFF
            and (version := wanted.adapter) is not None
        }
        if not self._learn(tenant_id, lines, served):
            return None
        held = {version.served_name: loaded(version.served_name) for version in served.values()}
        route = self._router.decide(tenant_id, prompt, loaded=held, meaning=meaning)
        self._noted(route.level.value, route.reason.value)
        domains = {ref: domain for domain, ref in lines.items()}
        chosen = route.level in {Level.DOMAIN, Level.PAIR}
        best = route.candidates[0].line_ref if route.candidates else ""
        away = next((name for name, one in served.items() if one.served_name == route.wanted), None)
        return Routed(
            domain=domains[best] if chosen else DEFAULT_DOMAIN,
            serves=domains[route.line_ref or ""] if chosen else DEFAULT_DOMAIN,
            route=route,
            wanted=None if away is None else line(away, lines[away]),
        )

    def _learn(self, tenant_id: str, lines: Mapping[str, str], served: Mapping[str, Version]) -> bool:
        """Bring the router up to date with a tenant's lines; return whether any domain line is known by prompts."""
        held = tuple(
            (domain, lines[domain], version.served_name) for domain, version in sorted(served.items())
        )
        known = self._held.get(tenant_id)
        if known != held:
            made = [
                one
                for domain, version in served.items()
                if (one := self._line(tenant_id, domain, lines, version)) is not None
            ]
            self._router.replace(tenant_id, made)
            self._held[tenant_id] = held
        return self._router.knows(tenant_id)

    def _line(
        self, tenant_id: str, domain: str, lines: Mapping[str, str], version: Version
    ) -> RouteLine | None:
        level, prototype, of = Level.DOMAIN, None, frozenset[str]()
        if version.composed:
            level = Level.PAIR
            of = frozenset(lines[part] for part in domain.split(AND) if part in lines)
            if len(of) != 2:
                return None
        elif domain == DEFAULT_DOMAIN:
            level = Level.META if version.meta else Level.TENANT
        else:
            written = self._written.get((tenant_id, domain)) or self._written.get((EVERYBODY, domain))
            prototype = written or self._of_card(version)
            if prototype is None:
                return None
        return RouteLine(
            tenant_id=tenant_id,
            line_ref=lines[domain],
            served_name=version.served_name,
            level=level,
            prototype=prototype,
            of=of,
        )

    def _of_card(self, version: Version) -> Prototype | None:
        if not version.card:
            return None
        if version.card not in self._of_cards:
            if len(self._of_cards) >= MOST_CARDS:
                self._of_cards.clear()
            self._of_cards[version.card] = prototype_of_card(version.card)
        return self._of_cards[version.card]


def prototype_of_card(card: bytes) -> Prototype | None:
    """Return the prototype of the prompt forms that a released style card tells, which is post-processing of it.

    ``None`` where it cannot be read, or tells too little.
    """
    try:
        pairs = synthetic_pairs(StyleCard.from_document(orjson.loads(card)), count=CARD_PROMPTS, seed=0)
        return prototype_of([pair.prompt for pair in pairs])
    except (PrototypeError, PersonalizationError) as error:
        log.warning("card_not_routed_by", code=error.code)
        return None


def read_routes(path: Path, encoder: Encoder | None = None) -> Prototypes:
    """Read operators' prompts: one JSON object a line, with ``tenant`` (``*`` is every one), ``domain`` and ``prompt``.

    Raises:
        SettingsError: the file cannot be read, a line is something else, or a domain has too few prompts.
    """
    try:
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise SettingsError(f"DISCREET_GATEWAY__ROUTES cannot be read: {type(error).__name__}") from None
    return prototypes_of(rows, encoder)


def prototypes_of(rows: Iterable[object], encoder: Encoder | None = None) -> Prototypes:
    """Return the prototype of each tenant's domain.

    Raises:
        SettingsError: a row is something else, or a domain has too few prompts.
    """
    prompts: dict[tuple[str, str], list[str]] = defaultdict(list)
    for number, row in enumerate(rows, start=1):
        told = [row.get(name) for name in ("tenant", "domain", "prompt")] if isinstance(row, dict) else []
        if not (len(told) == 3 and all(isinstance(value, str) and value for value in told)):
            raise SettingsError(
                f"row {number} of DISCREET_GATEWAY__ROUTES is no object with the texts tenant, domain and prompt"
            )
        tenant, domain, prompt = (str(value) for value in told)
        prompts[tenant, domain].append(prompt)
    found = {}
    for (tenant, domain), texts in prompts.items():
        try:
            found[tenant, domain] = prototype_of(texts, encoder)
        except PrototypeError as error:
            raise SettingsError(f"the routes of the domain {domain[:63]!r} cannot be used: {error}") from None
    return found


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"
