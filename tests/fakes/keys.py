"""A key store beside a test's database, and keyrings over both."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from sqlalchemy import event, text
from sqlalchemy.engine import make_url

from privacy.erasure.certificates import BackupRetention
from privacy.keys.keyring import Keyring
from privacy.keys.service import MasterKeys, new_master_key
from privacy.keys.store import open_store
from privacy.storage.session import open_engine

BACKUPS = BackupRetention(keys=timedelta(days=7), database=timedelta(days=30))


def store_url(database_url):
    """The address of the key store that belongs to a test's database: a file beside it, or a schema of its own."""
    url = make_url(str(database_url))
    if url.get_backend_name() == "sqlite":
        file = Path(url.database)
        return f"sqlite:///{file.with_name(f'{file.stem}-keys{file.suffix}')}"
    return url.update_query_dict({"options": "-csearch_path=discreet_keys"}).render_as_string(
        hide_password=False
    )


def prepared_store_url(database_url):
    """The same address, with the tables made, for processes that are to find them."""
    engine = open_engine(str(database_url))
    store_of(engine)
    engine.dispose()
    return store_url(database_url)


def store_of(engine):
    """The key store that belongs to the database of ``engine``, with its tables; one for each engine."""
    store = getattr(engine, "key_store_of_the_test", None)
    if store is None:
        if engine.dialect.name == "postgresql":
            with engine.begin() as connection:
                connection.execute(text("CREATE SCHEMA IF NOT EXISTS discreet_keys"))
        store = open_store(store_url(engine.url.render_as_string(hide_password=False)))
        store.prepare()
        event.listen(engine, "engine_disposed", lambda _engine: store.engine.dispose())
        engine.key_store_of_the_test = store
    return store


def keyring_of(engine, master_key=None, **options):
    """A keyring over the test's database; with one master key several share the keys, as processes do."""
    service = master_key if hasattr(master_key, "unwrap") else MasterKeys(master_key or new_master_key())
    return Keyring(service, store_of(engine), **options)
