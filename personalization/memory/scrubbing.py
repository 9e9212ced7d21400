"""Overwrite what was deleted of a memory in the database's own files; backups and replicas are not reached."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from sqlalchemy.exc import DBAPIError

from personalization.errors import MemoryMoveError, MemoryNotFoundError
from personalization.memory import pgvector
from privacy.errors import StorageError
from privacy.storage.session import transaction

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import Engine
    from sqlmodel import Session

_NOT_SCRUBBED: Final = "what was deleted is found no more, but the database did not overwrite it in its files"


@contextmanager
def scrubbed(engine: Engine) -> Iterator[Session]:
    """Run one transaction that may delete texts or give them up, and overwrite them in the files after its commit.

    Whoever repeats what the files kept may find nothing left to do: they are overwritten then too.

    Raises:
        StorageError: the database cannot be reached, or it refused to overwrite; see ``scrub``.
    """
    try:
        with transaction(engine) as session:
            yield session
    except (MemoryMoveError, MemoryNotFoundError):
        scrub(engine)
        raise
    scrub(engine)


def scrub(engine: Engine) -> None:
    """Overwrite what was deleted in the database's own files; backups and replicas are not reached.

    SQLite overwrites deleted pages (``secure_delete``), and its log of writes is emptied here. PostgreSQL is asked to
    vacuum; it frees the room for what comes next.

    Raises:
        StorageError: the database refused; what was deleted is found no more, but may lie in its files still.
    """
    try:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            if engine.dialect.name == "sqlite":
                connection.exec_driver_sql("COMMIT")  # every connection here begins one
                busy, *_ = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()
                if busy:
                    raise StorageError(
                        f"{_NOT_SCRUBBED} (somebody reads an earlier state); do the same again"
                    )
            else:
                connection.exec_driver_sql("VACUUM memory_documents")
                if pgvector.kept_at(connection):  # where vectors lie unsealed
                    connection.exec_driver_sql("VACUUM memory_vectors")
    except DBAPIError as error:
        raise StorageError(f"{_NOT_SCRUBBED} ({type(error.orig).__name__}); do the same again") from error
