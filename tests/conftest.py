"""Databases with the full schema, and a clock that tests move by hand.

Each database is migrated once per session and copied per test. SQLite always runs; PostgreSQL runs too when
``DISCREET_TEST_POSTGRES`` holds the address of an administrator, such as
``postgresql+psycopg://postgres@127.0.0.1:5432/postgres``.

The embedded broker always runs; Apache Kafka runs too when ``DISCREET_TEST_KAFKA`` holds its ``host:port``.
"""

from __future__ import annotations

import os

if (
    "PYTEST_XDIST_WORKER" in os.environ
):  # one of several test processes: one core for each; before torch is loaded
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("MKL_NUM_THREADS", "1")

import secrets
import shutil
import sys
from datetime import UTC, datetime, timedelta

import hypothesis
import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.engine import Dialect, make_url
from sqlalchemy.pool import NullPool

from privacy.storage import session as storage
from privacy.storage.session import open_engine
from streams.broker.embedded import EmbeddedBroker
from streams.storage import schema as database

POSTGRES = os.environ.get("DISCREET_TEST_POSTGRES", "")
DIALECTS = ["sqlite", *(["postgresql"] if POSTGRES else [])]
KAFKA = os.environ.get("DISCREET_TEST_KAFKA", "")
BROKERS = ["embedded", *(["kafka"] if KAFKA else [])]


# A test's database need not outlive the machine's power, and waiting for the disk makes a small transaction a hundred
# times as long. This is for this process alone; processes that tests start keep the product's own.
SQLITE_PRAGMAS_OF_THE_PRODUCT = storage.SQLITE_PRAGMAS
storage.SQLITE_PRAGMAS = tuple(
    "synchronous=OFF" if pragma == "synchronous=FULL" else pragma for pragma in SQLITE_PRAGMAS_OF_THE_PRODUCT
)


# Each test has a database of its own, hence an engine, which would compile every statement anew: a fifth of the time of
# a test of tables. What is compiled depends on the server alone, so its engines share it.
_compiled: dict[tuple[str | int | None, ...], tuple[Dialect, object]] = {}
_create_engine = storage.create_engine


def _sharing_statements(url, **options):
    engine = _create_engine(url, **options)
    server = (engine.url.drivername, engine.url.host, engine.url.port)
    if server in _compiled:
        engine.dialect, engine._compiled_cache = _compiled[server]
        return engine

    @event.listens_for(engine, "connect")  # from then on the dialect knows its server
    def _keep(_connection, _record):
        _compiled.setdefault(server, (engine.dialect, engine._compiled_cache))

    return engine


storage.create_engine = _sharing_statements


# No deadline and no judgement of speed: the machine may be busy, and no test here measures time. The suite tries the
# same examples in every run, so that it fails where something changed and nowhere else; DISCREET_HYPOTHESIS=search
# looks for new ones.
hypothesis.settings.register_profile(
    "suite",
    deadline=None,
    max_examples=60,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile(
    "search",
    hypothesis.settings.get_profile("suite"),
    max_examples=600,
    derandomize=False,
    print_blob=True,
)
hypothesis.settings.load_profile(os.environ.get("DISCREET_HYPOTHESIS", "suite"))


class ManualClock:
    """A clock that stands still until a test moves it; call it or its ``now`` for the time."""

    def __init__(self, start: datetime) -> None:
        self._now = start

    def now(self) -> datetime:
        return self._now

    __call__ = now

    def advance(self, *, seconds: float = 0, days: float = 0) -> datetime:
        self._now += timedelta(seconds=seconds, days=days)
        return self._now


@pytest.fixture
def fixed_draws():
    """Have readings, looks and rollouts draw the same in every run (``tests/fakes/fixed_draws.py``)."""
    from tests.fakes.fixed_draws import drawing_the_same

    with drawing_the_same():
        yield


@pytest.fixture(autouse=True)
def threads_of_torch_stay():
    """A test that sets the number of torch's threads sets it for itself only: sums depend on it in the last bits."""
    if "torch" not in sys.modules:
        yield
        return
    import torch

    threads = torch.get_num_threads()
    yield
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 3, 2, 9, 30, tzinfo=UTC))


def _admin(statement: str) -> None:
    engine = create_engine(POSTGRES, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(text(statement))
    engine.dispose()


def _postgres_url(name: str) -> str:
    return make_url(POSTGRES).set(database=name).render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory):
    path = tmp_path_factory.mktemp("template") / "migrated.db"
    database.upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def postgres_template():
    name = f"discreet_template_{secrets.token_hex(4)}"
    _admin(f"CREATE DATABASE {name}")
    database.upgrade(_postgres_url(name))
    yield name
    _admin(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=DIALECTS)
def empty_database_url(request, tmp_path):
    """A database without any schema, for the tests of migrations."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
        return
    name = f"discreet_empty_{secrets.token_hex(6)}"
    _admin(f"CREATE DATABASE {name}")
    yield _postgres_url(name)
    _admin(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=DIALECTS)
def database_url(request, tmp_path):
    """A fresh database with the newest schema."""
    if request.param == "sqlite":
        path = tmp_path / "discreet.db"
        shutil.copyfile(request.getfixturevalue("sqlite_template"), path)
        yield f"sqlite:///{path}"
        return
    name = f"discreet_test_{secrets.token_hex(6)}"
    _admin(f"CREATE DATABASE {name} TEMPLATE {request.getfixturevalue('postgres_template')}")
    yield _postgres_url(name)
    _admin(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def engine(database_url):
    engine = open_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def embedded_bootstrap():
    """The address of the embedded broker, one for the whole session; make topics of your own on it."""
    with EmbeddedBroker() as broker:
        yield broker.bootstrap


@pytest.fixture(params=BROKERS)
def kafka_bootstrap(request):
    """The address of a broker: the embedded one, and Apache Kafka where there is one."""
    return KAFKA if request.param == "kafka" else request.getfixturevalue("embedded_bootstrap")
