"""Wire the gateway from the settings: engine, tokens, adapter feed, consents, feedback and HTTP."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

import structlog

from personalization.memory.embedding import bundled_embedder
from streams.broker.clients import client_broker
from streams.client import AdapterFeed, AsyncInteractionPublisher, BrokerUnreachableError, DeliveryError
from streams.client.routing import Lever, RouterSettings
from streams.errors import SettingsError
from streams.flags.evaluating import LineFlags, operators_provider
from streams.gateway.answering import Answering, Shop
from streams.gateway.budgeted import LatencyBudgets
from streams.gateway.choosing import Rules, Use
from streams.gateway.consents import Consents
from streams.gateway.desired import DesiredState
from streams.gateway.directory import Directory, DirectoryWatch, directory_reader
from streams.gateway.engine_watch import EngineWatch
from streams.gateway.example_server import ExampleServerUpstream
from streams.gateway.feedback import FeedbackDesk
from streams.gateway.flagged import FlaggedLines
from streams.gateway.kpis import Kpis
from streams.gateway.limits import Places
from streams.gateway.listening import GatewayServer, options
from streams.gateway.llamacpp_server import LlamaCppUpstream
from streams.gateway.memories import Memories
from streams.gateway.remembered import Remembered
from streams.gateway.routed import DomainRouting, read_routes
from streams.gateway.shadowing import Shadow
from streams.gateway.upstreams import OpenAIUpstream, Timeouts
from streams.gateway.vllm_server import VllmUpstream
from streams.gateway.wanted import BridgeWanted, NobodyToTell
from streams.gateway.web import GatewayWeb
from streams.processes.memory import finder
from streams.processes.public_keys import required_keys
from streams.storage.schema import open_current
from streams.telemetry import logs
from streams.telemetry.gateway_metrics import GatewayMetrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from pydantic import SecretStr

    from personalization.memory.values import Found
    from streams.client.transport import Broker
    from streams.gateway.upstreams import Upstream
    from streams.gateway.wanted import Wanted
    from streams.settings import GatewaySettings, Settings

log = structlog.get_logger(__name__)

SOURCE = "/discreet/gateway"
PAUSE_SECONDS = 1.0
LEVERS = tuple(Lever)  # that a gateway has
LOOK_SECONDS = 0.1
_ENGINES: dict[str, type[OpenAIUpstream]] = {
    "vllm": VllmUpstream,
    "llamacpp": LlamaCppUpstream,
    "discreet": ExampleServerUpstream,
    "openai": OpenAIUpstream,
}


def run_gateway(settings: Settings, *, stop: threading.Event, on_ready: Callable[[int], None]) -> None:
    """Answer until ``stop`` is set; ``on_ready`` gets the port once requests are answered.

    Raises:
        SettingsError: no public key is set.
        StorageError: the database cannot be reached, or its schema is not the newest.
        BrokerUnreachableError: no broker answers.
    """
    logs.configure(settings.log)
    keys = required_keys(settings.gateway, settings.serving)
    engine = open_current(settings.database_url)
    try:
        read = directory_reader(engine, settings.gateway.server_id, keys)
        find = finder(settings, engine) if settings.gateway.memory else None
        with asyncio.Runner(**options()) as runner:
            runner.run(
                answer_until_stopped(
                    settings,
                    client_broker(settings.broker),
                    keys,
                    read,
                    stop=stop,
                    on_ready=on_ready,
                    find=find,
                )
            )
    finally:
        engine.dispose()


async def answer_until_stopped(
    settings: Settings,
    broker: Broker,
    keys: list[bytes],
    read: Callable[[], Directory],
    *,
    stop: threading.Event,
    on_ready: Callable[[int], None],
    find: Callable[[str, str, str, str | None], Found] | None = None,
) -> None:
    """Run the parts: three threads that read, the engine's watch, and the server.

    ``find`` looks a question up in a tenant's documents: tenant, domain, question, who asks.
    """
    given = settings.gateway
    loop = asyncio.get_running_loop()
    remembered = Remembered(
        most=given.feedback_answers, most_bytes=given.feedback_bytes, seconds=given.feedback_seconds
    )
    watched = DirectoryWatch(read, every_seconds=given.look_seconds, trust_seconds=given.trust_seconds)
    upstream, fallback, wanted = engine_of(settings), fallback_of(given), bridge_of(given)
    metrics = GatewayMetrics()
    encoder = bundled_embedder() if given.routes is not None and given.route_by == "meaning" else None
    with ExitStack() as stack:
        desired = DesiredState(lambda: AdapterFeed(broker, trusted_keys=keys))
        consents = Consents(broker, forget=lambda *who: _later(loop, lambda: remembered.forget(*who)))
        stack.callback(consents.close)
        verified = _verified(watched)
        watch = EngineWatch(upstream, verified, every_seconds=given.look_seconds)
        budgets = _budgets(given, metrics)
        places = Places(most=given.most_requests, most_per_tenant=given.most_requests_per_tenant)
        flags = LineFlags(desired.flag, operators_provider(settings.flags.provider), metrics.flag_failed)
        shadow, kpis = Shadow(metrics.shadowed, places), Kpis()
        memories = None
        if find is not None:
            memories = Memories(
                find,
                seconds=given.memory_seconds,
                told=metrics.looked_up,
                away=metrics.memory_away,
                not_signed=metrics.memory_not_signed,
            )
            stack.callback(memories.close)
        shop = Shop(
            model=given.model,
            upstream=upstream,
            fallback=fallback,
            watch=watch,
            wanted=wanted,
            line=desired.line,
            notice=consents.notice,
            remembered=remembered,
            places=places,
            rules=Rules(
                template=Use(given.template),
                constrained=given.constrained,
                applies_adapters=upstream.applies_adapters,
                presence_penalty=given.presence_penalty,
            ),
            ping_seconds=given.ping_seconds,
            flagged=FlaggedLines(flags),
            shadow=shadow,
            kpis=kpis,
            routing=DomainRouting(
                None if given.routes is None else read_routes(given.routes, encoder),
                RouterSettings(floor=given.route_floor, margin=given.route_margin),
                metrics.routed,
                encoder,
            ),
            budgets=budgets,
            memories=memories,
        )

        def ready() -> bool:
            known = watched.current is not None and desired.caught_up and consents.caught_up
            return known and (watch.up or fallback is not None)

        for name, value in {
            "requests_now": lambda: places.taken,
            "remembered": lambda: len(remembered),
            "remembered_bytes": lambda: remembered.bytes,
            "lines": lambda: len(desired),
            "engine_up": lambda: watch.up,
            "ready": ready,
        }.items():
            metrics.watch(name, value)
        async with _publisher(broker) as publisher:
            web = GatewayWeb(
                Answering(shop),
                FeedbackDesk(remembered, consents.notice, publisher, kpis),
                kpis,
                directory=lambda: watched.current,
                metrics=metrics,
                model=given.model,
                ready=ready,
                operator_token=_secret(settings.http.token) or None,
                most_bytes=given.most_body_bytes,
            )
            with _reading({"directory": watched.run, "adapters": desired.run, "consents": consents.run}):
                await _serve(given, web, watch, wanted, remembered, publisher, stop=stop, on_ready=on_ready)
    await wanted.close()
    await shadow.close()
    await upstream.close()
    if fallback is not None:
        await fallback.close()


def _budgets(given: GatewaySettings, metrics: GatewayMetrics) -> LatencyBudgets:
    budgets = LatencyBudgets(given.latency_budgets, metrics.dropped)
    for lever in (None, *LEVERS):
        for form, stream in (("whole", False), ("stream", True)):
            for share in (0.5, 0.99):
                metrics.watch_lever(
                    "plain" if lever is None else lever.value,
                    form,
                    f"{share:g}",
                    partial(budgets.quantile, lever, share, stream=stream),
                )
    return budgets


async def _serve(
    given: GatewaySettings,
    web: GatewayWeb,
    watch: EngineWatch,
    wanted: Wanted,
    remembered: Remembered,
    publisher: AsyncInteractionPublisher,
    *,
    stop: threading.Event,
    on_ready: Callable[[int], None],
) -> None:
    """Answer until ``stop`` is set, then let what is in progress end."""
    await watch.look()
    family = socket.AF_INET6 if ":" in given.host else socket.AF_INET
    listening = socket.create_server((given.host, given.port), family=family, backlog=512)
    port = int(listening.getsockname()[1])
    server = GatewayServer(web.application(), listening, drain_seconds=given.drain_seconds)
    works = (watch.run, wanted.run, lambda: _tidy(remembered, publisher))
    beside = [asyncio.create_task(_going_on(work)) for work in works]
    serving = asyncio.create_task(server.serve())
    try:
        await server.started()
        log.info("gateway_listening", port=port)
        on_ready(port)
        while not stop.is_set() and not serving.done():
            await asyncio.wait({serving}, timeout=LOOK_SECONDS)
        server.stop()
        await serving
    finally:
        for task in beside:
            task.cancel()


async def _going_on(work: Callable[[], Awaitable[None]]) -> None:
    """Do it to its end, and again after a pause where it failed: what it knew would be believed for ever."""
    while True:
        try:
            return await work()
        except Exception as error:  # noqa: BLE001  # as of a thread, below
            log.error("reading_failed", error=type(error).__name__)  # noqa: TRY400  # its text may hold a record
        await asyncio.sleep(PAUSE_SECONDS)


async def _tidy(remembered: Remembered, publisher: AsyncInteractionPublisher) -> None:
    """Drop what was kept long enough, even while nobody asks, and what the publisher notes of failures."""
    while True:
        await asyncio.sleep(PAUSE_SECONDS)
        remembered.tidy()
        with suppress(DeliveryError):  # whoever sent it was told
            await publisher.flush(PAUSE_SECONDS)


@asynccontextmanager
async def _publisher(broker: Broker) -> AsyncIterator[AsyncInteractionPublisher]:
    publisher = AsyncInteractionPublisher(broker, source=SOURCE, block_seconds=1.0)
    await publisher.__aenter__()  # now, so that two requests cannot open it twice
    try:
        yield publisher
    finally:
        with suppress(DeliveryError):
            await publisher.flush(PAUSE_SECONDS)
        await publisher.close()


@contextmanager
def _reading(runs: dict[str, Callable[[threading.Event], None]]) -> Iterator[None]:
    """Run each in a thread of its own, again after a pause when it failed, and end them together."""
    ended = threading.Event()

    def keep_running(run: Callable[[threading.Event], None]) -> None:
        while not ended.is_set():
            try:
                run(ended)
            except BrokerUnreachableError as error:
                log.warning("reading_again", code=error.code)
            except Exception as error:  # noqa: BLE001  # a thread that ended would leave what it knew for ever
                log.error("reading_failed", error=type(error).__name__)  # noqa: TRY400  # its text may hold a record
            ended.wait(PAUSE_SECONDS)

    threads = [
        threading.Thread(target=keep_running, args=(run,), name=f"gateway-{name}", daemon=True)
        for name, run in runs.items()
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def engine_of(settings: Settings) -> Upstream:
    """Return the engine that the settings name."""
    given = settings.gateway
    token = given.engine_token
    if token is None and given.engine == "discreet":
        token = settings.serving.token
    return _ENGINES[given.engine](
        url=_address(given.url),
        token=_secret(token),
        model=given.engine_model or given.model,
        timeouts=_timeouts(given),
        most_connections=given.most_requests,
    )


def fallback_of(given: GatewaySettings) -> Upstream | None:
    """Return what is asked when the engine does not answer, if anything."""
    if not given.fallback_url:
        return None
    return OpenAIUpstream(
        url=_address(given.fallback_url),
        token=_secret(given.fallback_token),
        model=given.fallback_model or given.engine_model or given.model,
        timeouts=_timeouts(given),
        most_connections=given.most_requests,
    )


def bridge_of(given: GatewaySettings) -> Wanted:
    """Return who is told what is asked for: the bridge that the settings name, or nobody.

    Raises:
        SettingsError: it has no token.
    """
    if not given.bridge_url:
        return NobodyToTell()
    if given.bridge_token is None:
        raise SettingsError("a bridge needs its token; put it into DISCREET_GATEWAY__BRIDGE_TOKEN")
    return BridgeWanted(
        url=_address(given.bridge_url),
        token=given.bridge_token.get_secret_value(),
        every_seconds=given.look_seconds,
    )


def _address(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise SettingsError("the address of an engine must begin with http:// or https://")
    return url.rstrip("/").removesuffix("/v1")


def _timeouts(given: GatewaySettings) -> Timeouts:
    return Timeouts(
        connect=given.connect_seconds,
        first=given.first_seconds,
        between=given.between_seconds,
        whole=given.whole_seconds,
    )


def _secret(value: SecretStr | None) -> str:
    return "" if value is None else value.get_secret_value()


def _verified(watched: DirectoryWatch) -> Callable[[], frozenset[str]]:
    def verified() -> frozenset[str]:
        current = watched.current
        return frozenset() if current is None else current.verified

    return verified


def _later(loop: asyncio.AbstractEventLoop, work: Callable[[], object]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(work)
