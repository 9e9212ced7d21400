"""Keep one engine at what the feed wants: verify, fetch, check, load, probe, and only then route; drain, then unload.

A bridge compares what is wanted with what the engine says it holds, again and again, and does the next step of each
version. So it does not matter which of engine, bridge and broker began anew, or in which order: names that are gone are
loaded again, names that it does not know are unloaded, and nothing is routed that was not proved since.

An engine that mixes requests of several tenants (``proving.py``) keeps none of our adapters and gets none until it
began anew: its base answers everybody, and answers as the base, since no batch can have an adapter. It is not tried
again while it runs: what a trial needs, adapters in the engine beside users' questions to the base, is what does the
harm, and no engine changes how it batches without a new start, which is seen even if it was too short for a look.

A version's files are deleted only after the engine forgot its name and its last request ended.

Longer than 400 lines because every step changes the same lives, and what is promised rests on their order.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import structlog

from streams.client import AckStatus, ClientError, UpdateKind
from streams.client.errors import AdapterUnprovenError
from streams.errors import EngineLoadError, EngineMixesError, EngineUnreachableError, StreamsError
from streams.serving.engines.lives import Life, Stage
from streams.serving.engines.metrics import BridgeMetrics
from streams.serving.engines.places import held_by, in_turn, to_put_out
from streams.serving.engines.proving import MOST_TOGETHER, ask_together, asked_alone
from streams.serving.engines.routes import Routes

if TYPE_CHECKING:
    import threading
    from collections import Counter
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path

    from streams.client import (
        AdapterCache,
        AdapterFeed,
        AdapterStateV1,
        AdapterUpdate,
        AdapterVersionV1,
    )
    from streams.serving.engines.engine import Engine

log = structlog.get_logger(__name__)

POLL_SECONDS = 0.1
AWAY_SECONDS = 1.0
LINGER_SECONDS = 30.0  # routes change elsewhere a moment later, and requests that began go on
UNTOLD_LINGER_SECONDS = 330.0  # where the engine does not tell who uses what: longer than a request may take
STAY_SECONDS = 30.0  # a version that was just loaded is not put out for another
OURS = "a-"  # how served names begin; what else an engine holds is its operator's own


class Bridge:
    """One engine's bridge; ``step`` and ``run`` for one thread, ``routes`` and ``wanted`` for any.

    Args:
        feed: verified desired state, and where reports go.
        engine: beside which it runs.
        cache: fetches and checks files; its directories are what the engine reads.
        check: refuses an adapter that does not fit the base, which engines do not.
        metrics: counts.
        linger_seconds: how long a version that is not wanted any more stays for requests that are on their way.
        untold_linger_seconds: the same, of an engine that does not tell which requests use what.
        stay_seconds: how long a version stays at least, when there are more than the engine holds.
        monotonic: seconds that only grow.
    """

    def __init__(
        self,
        feed: AdapterFeed,
        engine: Engine,
        cache: AdapterCache,
        *,
        check: Callable[[Path], object],
        metrics: BridgeMetrics | None = None,
        linger_seconds: float = LINGER_SECONDS,
        untold_linger_seconds: float = UNTOLD_LINGER_SECONDS,
        stay_seconds: float = STAY_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._feed = feed
        self._engine = engine
        self._cache = cache
        self._check = check
        self._metrics = metrics or BridgeMetrics()
        self._linger = linger_seconds
        self._untold_linger = untold_linger_seconds
        self._stay = stay_seconds
        self._now = monotonic
        self._lives: dict[str, Life] = {}
        self._states: dict[str, AdapterStateV1] = {}
        self._served: dict[
            str, str
        ] = {}  # per line, what was routed last: kept until its successor is proved
        self._away_until = 0.0
        self._away = False
        self._read = False
        self._doubt = False  # whether what is in service must be asked together again
        self._generation: int | None = None  # the engine's, as it was seen last
        self.routes = Routes()

    def run(self, stop: threading.Event) -> None:
        """Keep the engine at the desired state until ``stop`` is set."""
        while not stop.is_set():
            try:
                if self._read:
                    updates = self._feed.poll(POLL_SECONDS)
                else:
                    updates = self._feed.snapshot()
                    self._read = True
                    self._forget_unknown(updates)
                for update in updates:
                    self.apply(update)
                self._feed.save()
            except ClientError as error:
                if not error.retryable:
                    raise
                log.warning("broker_away", code=error.code)
                stop.wait(AWAY_SECONDS)
            if self._read:
                self.step()

    def apply(self, update: AdapterUpdate) -> None:
        """Take note of what one line wants now."""
        line, now = update.line_ref, self._now()
        wanted: dict[str, AdapterVersionV1] = {}
        revoked: Collection[str] = ()
        if update.kind is UpdateKind.SET and update.state is not None:
            self._states[line] = update.state
            revoked = update.state.revoked_version_ids
            for version in (update.state.candidate, update.state.adapter):
                if version is not None and version.version_id not in revoked:
                    wanted[version.served_name] = version
        else:
            self._states.pop(line, None)
            self._served.pop(line, None)
        for name, version in wanted.items():
            life = self._lives.get(name)
            if life is None or life.stage is Stage.FORGOTTEN:
                life = self._lives[name] = Life(version=version, epoch=update.epoch, share=line)
            if life.stage is Stage.LEAVING:
                life.stage = Stage.LOADED  # proved again before it is routed
            life.epoch, life.left_at = update.epoch, None
            life.at_once = life.hurried = False
            life.candidate = version is not (update.state.adapter if update.state else None)
        withdrawn = update.kind is UpdateKind.WITHDRAWN
        for life in self._of_line(line):
            if life.name not in wanted:
                life.epoch = update.epoch
                life.left_at = now if life.left_at is None else life.left_at
                life.at_once = life.at_once or withdrawn or life.version.version_id in revoked
        self._route(line)

    def step(self) -> None:
        """Do what can be done now; an engine that is away is asked again later."""
        if self._now() < self._away_until:
            return
        try:
            self._compare(self._engine.held())
            self._note_generation()
            self._use()
            self._let_go()
            if self.routes.unsafe is None:
                self._bring_in()
                self._prove()
            else:
                self._keep_out()
                if self._away:
                    self._safe(None)  # it may have begun anew: what comes in is asked like on the first day
        except EngineUnreachableError as error:
            if not self._away:
                log.warning("engine_away", code=error.code)
            self._away, self._away_until = True, self._now() + AWAY_SECONDS
            self._doubt = True  # it may have begun anew with another setting
            self._metrics.away(away=True)
            return
        if self._away:
            log.info("engine_back")
        self._away = False
        self._metrics.away(away=False)
        self._metrics.held(self._lives.values(), self._engine.capacity)

    def _note_generation(self) -> None:
        """Ask everything anew of an engine that began anew, even where it never seemed to be away."""
        before, self._generation = self._generation, self._engine.generation
        if before is not None and before != self._generation:
            self._doubt = True
            if self.routes.unsafe is not None:
                self._safe(None)

    def _compare(self, held: Collection[str]) -> None:
        """Take the engine's word for what it does not hold, and none for what it holds."""
        for life in self._lives.values():
            gone = life.inside and life.name not in held
            stale = life.stage is Stage.VERIFIED and life.proved_in != self._engine.generation
            if gone or stale:
                life.stage = Stage.WAITING if gone else Stage.LOADED
                self._route(life.version.manifest.line_ref)
            adopted = life.stage is Stage.WAITING and life.name in held and life.try_at <= self._now()
            if adopted and self._engine.tells:
                life.stage = Stage.LOADED  # from before this bridge began; it is proved like any other
                life.loaded_at = self._now()
        for name in sorted(name for name in held if name.startswith(OURS) and name not in self._lives):
            log.info("adapter_unknown", adapter=name)
            self._engine.unload(name)
        self._engine.settle()
        for name in self._cache.held():
            if name not in self._lives and name not in held and not self._engine.in_flight(name):
                self._cache.remove(name)

    def _use(self) -> None:
        for name, share in self.routes.wanted().items():
            life = self._lives.get(name)
            if life is not None:
                life.used_at = self._now()
                life.share = share or life.share
        if self._crowded():
            for life in self._lives.values():
                if life.stage is Stage.VERIFIED and self._engine.in_flight(life.name):
                    life.used_at = self._now()

    def _bring_in(self) -> None:
        """Load what is wanted and due, as far as there are places; see ``places.py`` for who comes first."""
        due = [
            life
            for life in self._lives.values()
            if life.stage is Stage.WAITING and self._stays(life) and life.try_at <= self._now()
        ]
        inside = [one for one in self._lives.values() if one.inside or one.stage is Stage.FORGOTTEN]
        held, loaded = held_by(inside), 0
        for life in in_turn(due, held):
            if len(inside) >= self._engine.capacity and not self._make_place(life, inside, held):
                continue
            if self._load(life):
                loaded += 1
                inside.append(life)
                held[life.share] += 1
        if loaded:
            self._engine.settle()

    def _make_place(self, life: Life, inside: list[Life], held: Counter[str]) -> bool:
        """Say whether a full engine has a place after all, since somebody was put out; who leaves is only hurried."""
        leaving = [one for one in inside if not self._stays(one) or one.stage is Stage.FORGOTTEN]
        for one in leaving:
            one.hurried = True
        if leaving:
            return False
        out = to_put_out(life, inside, held, now=self._now(), stay_seconds=self._stay, busy=self._busy)
        if out is None:
            return False
        log.info("adapter_put_out", adapter=out.name)
        self._metrics.swapped()
        self._unload(out)
        if out.stage is Stage.FORGOTTEN:
            return False  # a request reads its files still
        inside.remove(out)
        held[out.share] -= 1
        return True

    def _load(self, life: Life) -> bool:
        try:
            directory = self._cache.obtain(life.version)
            self._check(directory)
            self._engine.load(life.name, directory)
        except EngineUnreachableError:
            raise
        except (StreamsError, ClientError) as error:
            self._refuse(life, error.code, retryable=error.retryable)
            if life.refused:
                self._cache.remove(life.name)
            return False
        life.stage, life.loaded_at = Stage.LOADED, self._now()
        self._feed.ack(life.version, AckStatus.LOADED, epoch=life.epoch)
        return True

    def _prove(self) -> None:
        try:
            self._prove_all()
            self._prove_together()
        except EngineMixesError as error:
            log.error("engine_mixes_requests", code=error.code, what="start vLLM with --max-num-seqs 1")  # noqa: TRY400  # an engine's fault, not the code's
            self._safe(error.code)
            self._keep_out()

    def _prove_all(self) -> None:
        for life in list(self._lives.values()):
            if life.stage is not Stage.LOADED or not self._stays(life):
                continue
            if not self._engine.tells:
                self._route(life.version.manifest.line_ref)
                life.succeeded()
                continue
            self._prove_one(life)

    def _prove_one(self, life: Life) -> None:
        try:
            measured, life.alone = asked_alone(self._engine, life.version)
            self._ask_together(life)
        except (AdapterUnprovenError, EngineLoadError) as error:
            self._doubt = True  # it was wrong by itself, or because of who asked at the same time
            self._refuse(life, error.code, retryable=error.retryable)
            self._unload(life)
            return
        life.stage, life.proved_in = Stage.VERIFIED, self._engine.generation
        life.succeeded()
        self._metrics.proved(measured.error)
        self._feed.ack(life.version, AckStatus.VERIFIED, epoch=life.epoch, probe_effect=measured.effect)
        self._route(life.version.manifest.line_ref)
        log.info("adapter_in_service", adapter=life.name)

    def _prove_together(self) -> None:
        """Ask for what is in service again where there is a reason for doubt: alone, if it fails together."""
        if not self._doubt:
            return
        try:
            self._ask_together()
        except EngineLoadError:
            for life in self._lives.values():
                if life.stage is Stage.VERIFIED:
                    life.stage = Stage.LOADED
                    self._route(life.version.manifest.line_ref)
        self._doubt = False

    def _ask_together(self, *new: Life) -> None:
        """Ask for a new version beside those that came last; it may be what an engine's last place holds now."""
        if self._engine.mingles:
            held = [life for life in self._lives.values() if life.stage is Stage.VERIFIED]
            beside = sorted(held, key=lambda life: (-life.loaded_at, life.name))
            asked = [life.alone for life in (*new, *beside) if life.alone is not None]
            ask_together(self._engine, asked[:MOST_TOGETHER])

    def _safe(self, code: str | None) -> None:
        """Note why the engine may serve nobody, or that it may; what is in service is not any more."""
        self.routes.refuse_all(code)
        self._metrics.unsafe(unsafe=code is not None)
        for life in self._lives.values():
            if code is not None and life.inside:
                life.stage = Stage.LOADED
                self._route(life.version.manifest.line_ref)
                self._refuse(life, code, retryable=True)

    def _keep_out(self) -> None:
        """Take every adapter of ours out of an engine that mixes requests."""
        for life in list(self._lives.values()):
            if life.inside:
                self._unload(life)

    def _refuse(self, life: Life, code: str, *, retryable: bool) -> None:
        log.warning("adapter_refused", adapter=life.name, code=code)
        self._metrics.refused(code)
        if life.failed(code, retryable=retryable, now=self._now()):
            self._feed.ack(life.version, AckStatus.FAILED, epoch=life.epoch, reason=code)
        self.routes.failed(life.name, code)

    def _let_go(self) -> None:
        """Take the next step of every version that nobody wants any more."""
        for life in list(self._lives.values()):
            if life.stage is Stage.FORGOTTEN:
                self._delete(life)
            elif life.left_at is None:
                continue
            elif self._stays(life):
                life.left_at = self._now()
            elif not life.inside:
                self._engine.unload(life.name)  # whatever it lists: files must not go before the name
                self._cache.remove(life.name)
                self._drop(life)
            elif self._may_leave(life):
                self._unload(life)

    def _may_leave(self, life: Life) -> bool:
        life.stage = Stage.LEAVING
        waited = self._now() - (life.left_at if life.left_at is not None else self._now())
        uses = self._engine.in_flight(life.name)
        if life.at_once:
            return True
        if uses is None:
            return waited >= self._untold_linger
        return not uses and (life.hurried or waited >= self._linger)

    def _unload(self, life: Life) -> None:
        self._engine.unload(life.name)
        self._engine.settle()
        life.stage = Stage.FORGOTTEN
        self._route(life.version.manifest.line_ref)
        self._delete(life)

    def _delete(self, life: Life) -> None:
        """Delete the files once the engine forgot the name and the last request ended."""
        if life.name in self._engine.held() or self._engine.in_flight(life.name):
            return
        self._cache.remove(life.name)
        self._feed.ack(life.version, AckStatus.UNLOADED, epoch=life.epoch)
        if life.left_at is None:
            life.out()  # put out for another, or refused; its line wants it still
        else:
            self._drop(life)

    def _drop(self, life: Life) -> None:
        del self._lives[life.name]
        self.routes.forget(life.name)

    def _busy(self, life: Life) -> bool:
        return bool(self._engine.in_flight(life.name))

    def _crowded(self) -> bool:
        return sum(life.left_at is None for life in self._lives.values()) > self._engine.capacity

    def _of_line(self, line: str) -> list[Life]:
        return [life for life in self._lives.values() if life.version.manifest.line_ref == line]

    def _stays(self, life: Life) -> bool:
        """Say whether a version is wanted, or is what its line had and needs until its successor is proved."""
        line = life.version.manifest.line_ref
        if life.left_at is None:
            return True
        return not life.at_once and self._served.get(line) == life.name

    def _route(self, line: str) -> None:
        """Send a line's requests to what it wants if that is proved, else to what it had, else to the base."""
        usable = {Stage.VERIFIED} if self._engine.tells else {Stage.LOADED}
        ready = {life.name for life in self._of_line(line) if life.stage in usable and not life.at_once}
        state = self._states.get(line)
        wanted = None if state is None else state.adapter.served_name
        if wanted in ready:
            self._served[line] = wanted
        served = self._served.get(line)
        self.routes.set(line, served if served in ready else None)
        self.routes.verify({life.name for life in self._lives.values() if life.stage is Stage.VERIFIED})

    def _forget_unknown(self, updates: Sequence[AdapterUpdate]) -> None:
        """Leave out lines of which a feed that was read anew says nothing; they were withdrawn meanwhile."""
        named = {update.line_ref for update in updates}
        for life in self._lives.values():
            if life.version.manifest.line_ref not in named and life.left_at is None:
                life.left_at, life.at_once = self._now(), True
