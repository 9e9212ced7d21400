"""Wire memory from the settings: its key, what compares meanings, and where."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from personalization.memory.embedding import bundled, bundled_embedder
from personalization.memory.pgvector import PgVectors
from personalization.memory.search import MemorySearch, SearchRules
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


def finder(settings: Settings, engine: Engine) -> Callable[[str, str, str], Found]:
    """Return what looks a question up: tenant, domain, question; the model is loaded before the first one.

    Raises:
        SettingsError: the memory key cannot be read.
        EmbedderMissingError: the bundled model is asked for and is not installed.
    """
    search = open_search(settings, engine)
    return lambda tenant_id, domain, question: search.find(tenant_id, domain, question, datetime.now(UTC))


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
