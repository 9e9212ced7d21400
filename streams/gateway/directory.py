"""What the gateway knows from the database: tokens, whose line is which, and what a server has verified.

It is read as a whole every few seconds, so that no request waits for the database. While the database is away what was
read last counts on, for so long as is trusted: a token that was revoked meanwhile would be let in.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from personalization.memory.queries import tenants_with_memory
from personalization.prompts.rows import Standings
from personalization.registry.queries import line_names
from personalization.rollouts.rows import lowered_flags
from personalization.rollouts.values import Flag
from personalization.terms.rows import NewestTerms
from privacy.errors import StorageError
from privacy.storage.session import reading
from streams.gateway.prompting import line_prompts
from streams.gateway.terming import line_terms
from streams.gateway.tokens import callers_by_digest
from streams.storage.serving_acks import verified_by

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy.engine import Engine
    from sqlmodel import Session

    from personalization.terms.values import TermList
    from streams.gateway.callers import Caller
    from streams.gateway.prompting import LinePrompts

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Directory:
    """One reading of the database.

    Attributes:
        callers: by the SHA-256 of their token.
        lines: adapter line of each of a tenant's domains, by tenant.
        verified: served names whose last word from the server is that it verified them.
        flags: of the lines that may not show everything. The signed feed tells them too, but a line's records keep
            their order, and one may be waiting for the instant of its slot: a kill switch must not wait with it.
        memories: of each tenant that approved documents, the domains that it has them for; an empty name is every one.
        prompts: operators' templates of lines, those alone that a trusted key signed for their line.
        terms: what people decided about lines' terms, signed as well.
    """

    callers: Mapping[bytes, Caller] = field(default_factory=dict)
    lines: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    verified: frozenset[str] = frozenset()
    flags: Mapping[str, Flag] = field(default_factory=dict)
    memories: Mapping[str, frozenset[str]] = field(default_factory=dict)
    prompts: Mapping[str, LinePrompts] = field(default_factory=dict)
    terms: Mapping[str, TermList] = field(default_factory=dict)


def read_directory(
    session: Session,
    server_id: str,
    keys: Sequence[bytes] = (),
    *,
    standings: Standings | None = None,
    terms: NewestTerms | None = None,
) -> Directory:
    """Read everything at once.

    Args:
        session: of the database.
        server_id: the server whose word on adapters counts.
        keys: raw public keys that sign prompt templates and terms.
        standings: knows the templates that earlier calls read.
        terms: the same of terms.
    """
    lines: dict[str, dict[str, str]] = defaultdict(dict)
    for owner, domain, line_ref in line_names(session):
        lines[owner][domain] = line_ref
    lowered = lowered_flags(session)
    return Directory(
        callers=callers_by_digest(session),
        lines=dict(lines),
        verified=verified_by(session, server_id),
        flags={line_ref: Flag.read(flag.value) for line_ref, flag in lowered.items()},
        memories=tenants_with_memory(session),
        prompts=line_prompts((standings or Standings()).read(session), keys),
        terms=line_terms((terms or NewestTerms()).read(session), keys),
    )


class DirectoryWatch:
    """Keeps a directory up to date, in a thread of its own.

    Args:
        read: reads one; raises ``StorageError`` while it cannot.
        every_seconds: between two readings.
        trust_seconds: how old a reading may be.
        monotonic: seconds that only grow.
    """

    def __init__(
        self,
        read: Callable[[], Directory],
        *,
        every_seconds: float,
        trust_seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._every = every_seconds
        self._trust = trust_seconds
        self._monotonic = monotonic
        self._directory = Directory()
        self._read_at: float | None = None

    @property
    def current(self) -> Directory | None:
        """The last reading; ``None`` before the first one and when it is too old to be trusted."""
        if self._read_at is None or self._monotonic() - self._read_at > self._trust:
            return None
        return self._directory

    def refresh(self) -> None:
        """Read once; what cannot be read leaves what is known."""
        try:
            self._directory = self._read()
        except StorageError as error:
            log.warning("directory_not_read", code=error.code)
        else:
            self._read_at = self._monotonic()

    def run(self, stop: threading.Event) -> None:
        """Read again and again until ``stop`` is set."""
        while not stop.is_set():
            self.refresh()
            stop.wait(self._every)


def directory_reader(engine: Engine, server_id: str, keys: Sequence[bytes] = ()) -> Callable[[], Directory]:
    """Return what reads the directory of a database, and templates and terms but once."""
    standings, terms = Standings(), NewestTerms()

    def read() -> Directory:
        with reading(engine) as session:
            return read_directory(session, server_id, keys, standings=standings, terms=terms)

    return read
