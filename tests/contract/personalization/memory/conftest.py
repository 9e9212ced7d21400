"""A PostgreSQL that compares vectors, for the suites of memory."""

from __future__ import annotations

import os
import secrets

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from personalization.memory import pgvector
from personalization.memory.sealing import MemoryKeys
from privacy.storage.session import open_engine
from streams.storage import schema
from tests.fakes.embedders import WordHashes

KEYS = MemoryKeys(bytes(range(32)))
PGVECTOR = os.environ.get("DISCREET_TEST_PGVECTOR", "")


def _administer(statement):
    admin = create_engine(PGVECTOR, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with admin.connect() as connection:
        connection.execute(text(statement))
    admin.dispose()


def _opened(name):
    return open_engine(make_url(PGVECTOR).set(database=name).render_as_string(hide_password=False))


@pytest.fixture(scope="module")
def pgvector_template():
    """A database of a PostgreSQL with the extension, with the newest schema (`start_pgvector` in .ci/services.sh)."""
    if not PGVECTOR:
        pytest.skip("DISCREET_TEST_PGVECTOR names no PostgreSQL with the extension vector")
    name = f"discreet_memory_{secrets.token_hex(6)}"
    _administer(f"CREATE DATABASE {name}")
    schema.upgrade(make_url(PGVECTOR).set(database=name).render_as_string(hide_password=False))
    engine = _opened(name)
    pgvector.prepare(engine, KEYS, WordHashes())
    engine.dispose()
    yield name
    _administer(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def pgvector_engine(pgvector_template):
    name = f"discreet_memory_{secrets.token_hex(6)}"
    _administer(f"CREATE DATABASE {name} TEMPLATE {pgvector_template}")
    engine = _opened(name)
    yield engine
    engine.dispose()
    _administer(f"DROP DATABASE {name} WITH (FORCE)")
