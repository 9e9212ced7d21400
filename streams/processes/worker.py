"""The worker process: the Faust app, the intakes, the chores and the HTTP endpoints in one event loop.

It ends in one of three ways: asked to (SIGTERM or SIGINT) it stops pulling, lets transactions in progress
finish, commits, and leaves the group; when the Faust app or an intake fails for good, it does the same and
raises the cause, so that whoever supervises it sees a status other than zero; and SIGKILL at any moment
loses nothing, because offsets are committed only after effects.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
from typing import TYPE_CHECKING

import structlog

from privacy.errors import KeyServiceError, RewoundError, StorageError
from privacy.keys.master_key import check_master_key
from privacy.storage.session import reading, transaction
from streams.broker.app import WorkerApp, make_app
from streams.broker.clients import missing_topics
from streams.errors import BrokerUnavailableError
from streams.http.server import HttpServer
from streams.http.tokens import Access
from streams.ingest.intake import Intake
from streams.processes import wiring as bootstrap
from streams.processes.keys import known_public_keys
from streams.processes.liveness import Liveness
from streams.processes.memory import memory_access
from streams.storage import schema as database
from streams.storage.consumed_offsets import consumed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from streams.processes.wiring import Services

log = structlog.get_logger(__name__)

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 10.0
COLLECTOR_THRESHOLDS = (50_000, 20, 50)  # a batch makes tens of thousands of objects, none in a cycle


class Worker:
    """One worker, from start to stop."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._settings = services.settings
        self.intakes: Mapping[str, Intake] = {
            topic: Intake(topic, handler, self._settings.ingest, services.metrics)
            for topic, handler in bootstrap.handlers(services).items()
        }
        services.metrics.reads(self.intakes)
        self.liveness = Liveness(self.intakes, services.metrics, self._settings.http)
        self._stop = asyncio.Event()

    def ask_to_stop(self) -> None:
        """Stop soon; ``run`` returns when everything in progress is done."""
        self._stop.set()

    async def run(self) -> None:
        """Work until asked to stop, answering over HTTP meanwhile.

        Raises:
            PoisonedTopicError: nearly all events of several tenants failed in this worker.
            BrokerUnavailableError: the connection to the broker failed for good.
            KeyUnavailableError: the configured master key is not the one that the database was filled under.
            RewoundError: the database was set back to a backup while the worker ran.
        """
        if not self._settings.http.enabled:
            await self._work()
            return
        async with self._http_server() as server:
            log.info("http_listening", port=server.port)
            await self._work()

    def _http_server(self) -> HttpServer:
        settings = self._settings.http
        token = None if settings.token is None else settings.token.get_secret_value()
        return HttpServer(
            host=settings.host,
            port=settings.port,
            probes=self.liveness,
            exposition=self._services.metrics.exposition,
            access=Access(
                self._services.engine,
                token,
                self._services.clock.now,
                on_failed_login=self._services.metrics.failed_login,
            ),
            ceilings=self._settings.ceilings.ceilings(),
            memory=memory_access(self._settings, self._services.engine),
            signed_by=lambda: known_public_keys(self._settings),
        )

    async def _work(self) -> None:
        app = make_app(
            self._settings.broker,
            self.intakes,
            max_poll_records=self._settings.ingest.batch_events,
            stored=self._stored_offsets,
        )
        tasks = [asyncio.create_task(intake.run(), name=topic) for topic, intake in self.intakes.items()]
        stop = asyncio.create_task(self._stop.wait(), name="stop")
        starting = asyncio.create_task(self._start(app, tasks), name="faust")
        try:
            log.info("worker_starting")
            await asyncio.wait({stop, starting, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                log.info("worker_ready")
                # What lives now lives for good: the collector need not look at it again and again.
                gc.collect()
                gc.freeze()
                gc.set_threshold(*COLLECTOR_THRESHOLDS)
                tasks.append(asyncio.create_task(_crashed(app), name="faust"))
                # Not before: they would go on over a database that was set back.
                tasks.append(asyncio.create_task(_chores(self._services), name="chores"))
                await asyncio.wait({stop, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
            starting.cancel()
            with contextlib.suppress(asyncio.CancelledError, BrokerUnavailableError):
                await starting
            log.info("worker_stopping")
            failed = [task for task in tasks if task.done()]  # before stopping makes others end
            if app.started:
                await app.stop()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in failed:
            task.result()
        log.info("worker_stopped")

    async def _start(self, app: WorkerApp, tasks: list[asyncio.Task[None]]) -> None:
        await self._wait_until_ready("database", self._database_problem)
        await self._wait_until_ready("database", self._key_problem)
        await self._wait_until_ready("broker", self._broker_problem)
        await self._wait_until_ready("anchor", self._anchor_problem)
        # Faust has started when the group has given it something, which may be never.
        tasks.append(asyncio.create_task(self.liveness.run(app), name="liveness"))
        await app.start()

    async def _stored_offsets(self) -> Mapping[tuple[str, int], int]:
        """Return up to where the database has the effects of each partition; waits for the database."""
        while True:
            try:
                return await asyncio.to_thread(self._read_offsets)
            except StorageError as error:
                log.warning("waiting", what="database", problem=str(error))
                await asyncio.sleep(LONGEST_PAUSE_SECONDS / 10)

    def _read_offsets(self) -> Mapping[tuple[str, int], int]:
        with reading(self._services.engine) as session:
            return consumed(session)

    async def _wait_until_ready(self, name: str, problem_with: Callable[[], str | None]) -> None:
        """Wait until nothing is wrong any more; each problem is reported once."""
        reported = None
        pause = FIRST_PAUSE_SECONDS
        while (problem := await asyncio.to_thread(problem_with)) is not None:
            if problem != reported:
                log.warning("waiting", what=name, problem=problem)
                reported = problem
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _database_problem(self) -> str | None:
        try:
            return database.problem_of(self._settings.database_url)
        except StorageError as error:
            return str(error)

    def _key_problem(self) -> str | None:
        """Refuse to start under another master key: every event would end as a dead letter.

        Raises:
            KeyUnavailableError: the stored tenant keys do not open with the configured master key.
        """
        try:
            with transaction(self._services.engine) as session:
                check_master_key(session, self._services.keyring, now=self._services.clock.now())
        except (StorageError, KeyServiceError) as error:
            return str(error)
        return None

    def _anchor_problem(self) -> str | None:
        """Say in what the database lies below its anchor; nothing is read, reserved or called ready meanwhile."""
        try:
            self._services.anchor.require_newest()
            self._services.anchor.renew()
        except (StorageError, KeyServiceError) as error:
            return str(error)
        return None

    def _broker_problem(self) -> str | None:
        try:
            missing = missing_topics(self._settings.broker, self.intakes)
        except BrokerUnavailableError as error:
            return str(error)
        return f"topics are missing: {', '.join(missing)}; run `discreet topics create`" if missing else None


async def _chores(services: Services) -> None:
    """Do the periodic work.

    Raises:
        RewoundError: the database was set back while the worker ran.
    """
    try:
        await bootstrap.chores(services).run()
    except ExceptionGroup as group:
        raise next((one for one in group.exceptions if isinstance(one, RewoundError)), group) from None


async def _crashed(app: WorkerApp) -> None:
    """Wait until the Faust app fails.

    Raises:
        BrokerUnavailableError: it did.
    """
    await app.wait_until_stopped()
    reason = app.crash_reason
    raise BrokerUnavailableError(
        f"the connection to the broker failed for good ({type(reason).__name__}); start the worker again"
    ) from reason


async def run_worker(services: Services) -> None:
    """Run a worker until SIGTERM or SIGINT.

    Raises:
        PoisonedTopicError: nearly all events of several tenants failed in this worker.
        BrokerUnavailableError: the connection to the broker failed for good.
    """
    worker = Worker(services)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.ask_to_stop)
    await worker.run()
