"""Rows that go to the driver directly: the same values as through the ORM, and the same errors."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy.exc import IntegrityError
from sqlmodel import select

from privacy.errors import StorageError
from privacy.storage.bulk import insert_rows, lookup_rows, moment_writer
from privacy.storage.session import transaction
from streams.ingest.tables import ProcessedEventRow

COLUMNS = ("event_digest", "processed_at", "refused_origin", "refusal")
AT = datetime(2026, 3, 2, 9, 30, 1, 23, tzinfo=UTC)


def put(engine, *digests, at=AT):
    with transaction(engine) as session:
        moment = moment_writer(session)(at)
        insert_rows(
            session, "processed_events", COLUMNS, [(digest, moment, None, "a\tb\\c") for digest in digests]
        )


def test_what_goes_in_comes_out_of_the_orm_unchanged(engine):
    put(engine, bytes(range(32)), at=AT.astimezone(timezone(timedelta(hours=5))))
    with transaction(engine) as session:
        row = session.exec(select(ProcessedEventRow)).one()
    assert (bytes(row.event_digest), row.processed_at) == (bytes(range(32)), AT)
    assert (row.refused_origin, row.refusal) == (None, "a\tb\\c")


def test_only_the_asked_for_rows_are_found_in_any_number(engine):
    digests = [number.to_bytes(32, "big") for number in range(1_200)]
    put(engine, *digests[:700])
    with transaction(engine) as session:
        found = lookup_rows(session, "processed_events", "event_digest", digests[100:], ("refusal",))
    assert {row[0] for row in found} == set(digests[100:700])


def test_a_taken_key_fails_the_transaction_like_any_other_conflict(engine):
    put(engine, b"a")
    with pytest.raises(StorageError) as refused:
        put(engine, b"b", b"a")
    assert isinstance(refused.value.__cause__, IntegrityError)
    with transaction(engine) as session:
        assert len(session.exec(select(ProcessedEventRow)).all()) == 1


def test_a_lost_connection_is_a_retryable_error(engine):
    if engine.dialect.name == "sqlite":
        return  # it has no connection to lose

    def cut_and_put():
        with transaction(engine) as session:
            pid = session.connection().exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
            with engine.connect() as other:
                other.exec_driver_sql("SELECT pg_terminate_backend(%s)", (pid,))
            insert_rows(session, "processed_events", COLUMNS, [(b"x", AT, None, None)])

    with pytest.raises(StorageError) as refused:
        cut_and_put()
    assert refused.value.retryable
    assert not isinstance(refused.value.__cause__, IntegrityError)
    put(engine, b"y")
