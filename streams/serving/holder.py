"""Follow the adapter feed and hold in the model what it says: fetch, load, verify, report.

Order for one update: fetch the files, whose digests, signature and base model are checked; load them under the
version's own served name; ask the model whether it changes as the manifest says; only then make the version the line's
current one, and unload what the line no longer needs. Each step is reported to the acks topic. A version that
fails is reported and skipped; the line keeps what it had. Where trying again may help (the store did not answer, say),
it is tried again with growing pauses, for as long as the line wants it.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import structlog

from streams.client import AckStatus, Proof, UpdateKind, compare, readings
from streams.serving.prompting import rendering_of_state

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from personalization.prompts.rendering import Rendering
    from streams.client import AdapterFeed, AdapterUpdate, AdapterVersionV1, Measured, Reading

log = structlog.get_logger(__name__)


POLL_SECONDS = 0.2
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 300.0


class ModelHost(Protocol):
    """What the holder asks of the model side."""

    @property
    def precision(self) -> str:
        """The base's precision, as manifests name tolerances."""

    def load(self, name: str, directory: Path) -> None:
        """Load an adapter beside the base."""

    def unload(self, name: str) -> None:
        """Forget an adapter."""

    def next_log_probabilities(self, asked: Sequence[Reading], *, name: str | None) -> list[float]:
        """Return the log-probability of every watched token, in order; ``None`` asks the base alone."""


@dataclass
class Holdings:
    """What the process holds, for its HTTP side.

    Attributes:
        current: served name per adapter line.
        failures: stable code of each version that could not be loaded, by served name.
        lines: the adapter line of each version that is held, by served name.
        templates: the prompt template of each line that has one.
    """

    current: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    lines: dict[str, str] = field(default_factory=dict)
    templates: dict[str, Rendering] = field(default_factory=dict)


@dataclass
class _Again:
    """An update of which something failed that may succeed later."""

    update: AdapterUpdate
    attempts: int
    at: float


class AdapterHolder:
    """Applies updates of one feed to one model host.

    Args:
        feed: source of verified updates, and where reports go.
        host: the model.
        fetch: returns a local directory with the verified files of a version, or raises: wrong digests, wrong
            signature, another base model.
        monotonic: seconds that only grow.
    """

    def __init__(
        self,
        feed: AdapterFeed,
        host: ModelHost,
        fetch: Callable[[AdapterVersionV1], Path],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._monotonic = monotonic
        self._again: dict[str, _Again] = {}  # per line
        self._feed = feed
        self._host = host
        self._fetch = fetch
        self._loaded: dict[str, dict[str, AdapterVersionV1]] = {}  # per line, by served name
        self.holdings = Holdings()

    def run(self, stop: threading.Event) -> None:
        """Apply the full state, then every change, until ``stop`` is set."""
        for update in self._feed.snapshot():
            self.apply(update)
        self._feed.save()
        while not stop.is_set():
            for update in self._feed.poll(POLL_SECONDS):
                self.apply(update)
            self._feed.save()
            self.try_again()

    def try_again(self) -> None:
        """Apply once more what failed and is due."""
        for line_ref, again in list(self._again.items()):
            if again.at <= self._monotonic():
                self._apply(again.update, attempts=again.attempts)
                log.info("adapter_tried_again", line_ref=line_ref, attempts=again.attempts)

    def apply(self, update: AdapterUpdate) -> None:
        """Bring the model to what one update wants."""
        self._apply(update, attempts=0)

    def _apply(self, update: AdapterUpdate, *, attempts: int) -> None:
        self._again.pop(update.line_ref, None)  # a newer update takes the place of what failed before
        wanted: dict[str, AdapterVersionV1] = {}
        if update.kind is UpdateKind.SET and update.state is not None:
            versions = (update.state.adapter, update.state.candidate)
            wanted = {version.served_name: version for version in versions if version is not None}
        held = self._loaded.setdefault(update.line_ref, {})
        for name, version in wanted.items():
            if name in held:
                continue
            failed = self._bring_in(version, update.epoch)
            if failed is None:
                held[name] = version
            elif getattr(failed, "retryable", False):
                pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(attempts, 30))
                self._again[update.line_ref] = _Again(update, attempts + 1, self._monotonic() + pause)
        if update.state is not None and update.state.adapter.served_name in held:
            self.holdings.current[update.line_ref] = update.state.adapter.served_name
        elif update.kind is UpdateKind.WITHDRAWN:
            self.holdings.current.pop(update.line_ref, None)
        keep = {*wanted, self.holdings.current.get(update.line_ref)}
        for name in [name for name in held if name not in keep]:
            version = held.pop(name)
            self._host.unload(name)
            self._feed.ack(version, AckStatus.UNLOADED, epoch=update.epoch)
        template = None if update.state is None else rendering_of_state(update.state)
        templates = {line: one for line, one in self.holdings.templates.items() if line != update.line_ref}
        self.holdings.templates = templates if template is None else {**templates, update.line_ref: template}
        self.holdings.lines = {name: line for line, names in self._loaded.items() for name in names}

    def _bring_in(self, version: AdapterVersionV1, epoch: int) -> Exception | None:
        """Fetch, load and verify one version, and report what happened; return why it must not be served, if so."""
        name = version.served_name
        try:
            self._host.load(name, self._fetch(version))
            self._feed.ack(version, AckStatus.LOADED, epoch=epoch)
            measured = self._measure(version)
        except Exception as error:  # noqa: BLE001  # one bad version must not end the process
            code = str(getattr(error, "code", "serving.adapter.failed"))
            log.warning("adapter_refused", adapter=name, code=code)
            self._host.unload(name)
            if self.holdings.failures.get(name) != code:  # attempts that fail alike are reported once
                self.holdings.failures[name] = code
                self._feed.ack(version, AckStatus.FAILED, epoch=epoch, reason=code)
            return error
        self.holdings.failures.pop(name, None)
        if measured is not None and measured.proof is Proof.PROVED:
            self._feed.ack(version, AckStatus.VERIFIED, epoch=epoch, probe_effect=measured.effect)
        log.info("adapter_in_service", adapter=name)
        return None

    def _measure(self, version: AdapterVersionV1) -> Measured | None:
        """Ask the model itself, because a server can say "loaded" and go on answering with the base.

        A version from before there were probes says nothing to compare with: it is held, and not called verified. So
        is one that changes too little to tell.

        Raises:
            AdapterUnprovenError: the model answers as the base does, or as with another adapter.
        """
        activation = version.manifest.evaluation.activation
        if activation is None:
            return None
        asked = readings(activation)
        base = self._host.next_log_probabilities(asked, name=None)
        adapted = self._host.next_log_probabilities(asked, name=version.served_name)
        return compare(activation, base, adapted, precision=self._host.precision)
