"""Wire memory from the settings: its key, what compares meanings, and where."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING

from personalization.memory.embedding import bundled, bundled_embedder
from personalization.memory.pgvector import PgVectors
from personalization.memory.search import MemorySearch, SearchRules
from streams.gateway.choosing import within_share
from streams.http.memory import MemoryAccess
from streams.outbox.events import OutboxAdapterEvents
from streams.processes.keys import memory_keys

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import Engine

    from personalization.memory.embedding import Embedder
    from personalization.memory.values import Found
    from streams.settings import Settings


def embedder_of(settings: Settings) -> Embedder | None:
    """Return what turns texts into vectors; ``None`` where words alone are compared.

    Raises:
        EmbedderMissingError: the bundled model is asked for and is not installed.
    """
    wanted = settings.memory.embedder
    if wanted == "none" or (wanted == "auto" and not bundled()):
        return None
    return bundled_embedder()


def finder(settings: Settings, engine: Engine) -> Callable[[str, str, str, str | None], Found]:
    """Return what looks a question up: tenant, domain, question, who asks; the model is loaded before the first one.

    Raises:
        SettingsError: the memory key cannot be read.
        EmbedderMissingError: the bundled model is asked for and is not installed.
    """
    return drawing(open_search(settings, engine))


def drawing(search: MemorySearch) -> Callable[[str, str, str, str | None], Found]:
    """Return what looks up in a memory for a user, who is drawn for candidates as for adapters' and templates'."""
    return lambda tenant_id, domain, question, user: search.find(
        tenant_id,
        domain,
        question,
        datetime.now(UTC),
        within=lambda salt, percent: within_share(salt, user, percent),
    )


def memory_access(settings: Settings, engine: Engine) -> MemoryAccess | None:
    """Return what routes for documents need; ``None`` where this machine has no memory key.

    None is made here: documents that were sealed with a key of this machine's own would not open at the gateway.
    """
    if settings.memory.key is None and not settings.memory_key_file.exists():
        return None
    return MemoryAccess(
        engine=engine,
        events=OutboxAdapterEvents(),  # no desired state goes with these events, so nothing is signed for servers
        keys=cache(lambda: memory_keys(settings)),
        embedder=cache(lambda: embedder_of(settings)),
        search=cache(lambda: open_search(settings, engine)),
    )


def open_search(settings: Settings, engine: Engine, rules: SearchRules | None = None) -> MemorySearch:
    """Return what looks things up in tenants' memories.

    Raises:
        SettingsError: the memory key cannot be read.
        EmbedderMissingError: the bundled model is asked for and is not installed.
    """
    given = settings.gateway
    embedder = embedder_of(settings)
    inside = settings.memory.vectors == "pgvector"
    return MemorySearch(
        engine,
        memory_keys(settings),
        embedder,
        near=None if embedder is None or not inside else PgVectors(engine, embedder.name),
        rules=rules or SearchRules(passages=given.memory_passages, floor=given.memory_floor),
        most_chunks=given.memory_chunks,
    )
