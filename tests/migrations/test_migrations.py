"""The one history goes up and down on both databases and matches the tables in the code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from personalization.choices.tables import PromptChoiceRow
from personalization.registry.queries import ensure_line
from privacy.errors import StorageError
from privacy.policy import versions as policies
from privacy.storage.session import open_engine, transaction
from streams.contracts.envelope import sender_digest
from streams.ingest.identity import event_digest
from streams.storage import schema as database

ROOT = Path(database.__file__).resolve().parents[2]


SIGNALS = "SELECT event_digest, rank FROM signals"
FATES = "SELECT event_digest FROM processed_events"
NO_COLUMNS = {"0013_consent_clocks", "0018_versions_of_tenants"}  # steps that change rows, or an index


def tables(url):
    engine = open_engine(url)
    names = set(inspect(engine).get_table_names())
    engine.dispose()
    return names


def columns(url):
    """Every column of every table, with its type, and every table's key."""
    engine = open_engine(url)
    inspector = inspect(engine)  # asks for all tables at once, which is a tenth of the work
    found = {
        (table, column["name"], str(column["type"]))
        for (_, table), its in inspector.get_multi_columns().items()
        for column in its
    }
    found |= {
        (table, *key["constrained_columns"])
        for (_, table), key in inspector.get_multi_pk_constraint().items()
        if key is not None
    }
    engine.dispose()
    return found


def leftovers(url):
    """Triggers and functions of ours that are still there."""
    engine = open_engine(url)
    query = {
        "sqlite": "SELECT count(*) FROM sqlite_master WHERE type = 'trigger'",
        "postgresql": "SELECT count(*) FROM pg_proc WHERE proname LIKE 'discreet%'",
    }[engine.dialect.name]
    with engine.connect() as connection:
        count = connection.execute(text(query)).scalar_one()
    engine.dispose()
    return count


def test_the_head_is_the_one_that_alembic_finds():
    assert database.head() == ScriptDirectory.from_config(database._config()).get_current_head()


def test_a_history_with_two_ends_is_refused(tmp_path, monkeypatch):
    (tmp_path / "versions").mkdir()
    for name in ("a", "b"):
        (tmp_path / "versions" / f"{name}.py").write_text(
            f'revision = "{name}"\ndown_revision = None\n', "utf-8"
        )
    monkeypatch.setattr(database, "migrations_directory", lambda: tmp_path)
    with pytest.raises(StorageError, match="has 2 newest revisions"):
        database.head()


def test_looking_at_a_database_does_not_import_alembic(database_url):
    script = "import sys; from streams.storage import schema; schema.open_current(sys.argv[1]); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script, database_url], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert "sqlalchemy" in done.stdout.split()
    assert "alembic" not in done.stdout.split()


def test_up_matches_the_code_and_down_leaves_nothing(empty_database_url):
    assert database.current(empty_database_url) is None
    assert database.upgrade(empty_database_url) == database.head()
    database.check(empty_database_url)
    assert tables(empty_database_url) >= {"tenants", "policies", "audit_trail", "subject_keys", "consents"}
    assert database.downgrade(empty_database_url, "base") is None
    assert tables(empty_database_url) == {"alembic_version"}
    assert leftovers(empty_database_url) == 0
    assert database.upgrade(empty_database_url) == database.head()


def test_every_step_goes_down_and_up_again(empty_database_url):
    """Walked down once and up once: what a step leads to is the same from either side."""
    revision = database.upgrade(empty_database_url)
    newest, below = columns(empty_database_url), {}
    while revision is not None:
        upper, revision = revision, database.downgrade(empty_database_url, "-1")
        below[upper] = columns(empty_database_url)
    assert len(below) == len(list(ScriptDirectory.from_config(database._config()).walk_revisions()))
    for upper, before in reversed(below.items()):
        assert columns(empty_database_url) == before
        assert database.upgrade(empty_database_url, "+1") == upper
        assert columns(empty_database_url) != before or upper in NO_COLUMNS
    assert columns(empty_database_url) == newest


def test_stored_signals_and_their_fates_move_to_the_identity_that_ingest_computes(empty_database_url):
    database.upgrade(empty_database_url, "0006_erasure_ids")
    engine = open_engine(empty_database_url)
    senders = [sender_digest("urn:test", f"e{number}") for number in range(2_500)]
    rows = [
        {"digest": sender, "pseudonym": f"{number % 7:064x}", "at": "2026-03-02 09:30:00"}
        for number, sender in enumerate(senders)
    ]
    other = sender_digest("urn:test", "driven out")
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO signals (event_digest, tenant_id, pseudonym, domain, period_index, rank, occurred_at,"
                " ciphertext) VALUES (:digest, 'acme', :pseudonym, 'default', 0, :digest, :at, :digest)"
            ),
            rows,
        )
        connection.execute(
            text("INSERT INTO processed_events (event_digest, processed_at) VALUES (:digest, :at)"),
            [
                *({"digest": row["digest"], "at": row["at"]} for row in rows),
                {"digest": other, "at": rows[0]["at"]},
            ],
        )
    database.upgrade(empty_database_url)
    with engine.connect() as connection:
        signals = {bytes(one[0]): bytes(one[1]) for one in connection.execute(text(SIGNALS))}
        fates = {bytes(one) for one in connection.execute(text(FATES)).scalars()}
    engine.dispose()
    expected = {
        event_digest("discreet.interactions.v1", ("acme", row["pseudonym"]), row["digest"]): row["digest"]
        for row in rows
    }
    assert signals == expected  # the rank, the second column, is what it was
    assert fates == {*expected, other}
    assert "moved_events" not in tables(empty_database_url)


def test_erasures_that_stand_keep_their_certificates_and_another_person_may_use_their_ids(empty_database_url):
    database.upgrade(empty_database_url, "0009_one_user")
    engine = open_engine(empty_database_url)
    at = "2026-03-02 09:30:00"
    tenant = text("INSERT INTO tenants (tenant_id, registered_at, registered_by) VALUES ('acme', :at, 'ann')")
    erased = text(
        "INSERT INTO erasures (tenant_id, erasure_id, pseudonym, state, requested_at, recorded_at, deadline_at, "
        "certificate) VALUES ('acme', 'r1', :pseudonym, 'completed', :at, :at, :at, :certificate)"
    )
    with engine.begin() as connection:
        connection.execute(tenant, {"at": at})
        connection.execute(erased, {"pseudonym": "p1", "at": at, "certificate": '{"erasure_id": "r1"}'})
    database.upgrade(empty_database_url)
    with engine.begin() as connection:
        connection.execute(erased, {"pseudonym": "p2", "at": at, "certificate": '{"other": 1}'})
        kept = connection.execute(
            text("SELECT pseudonym, certificate FROM erasures ORDER BY pseudonym")
        ).all()
    engine.dispose()
    read = [(who, json.loads(said) if isinstance(said, str) else said) for who, said in kept]
    assert read == [("p1", {"erasure_id": "r1"}), ("p2", {"other": 1})]


def test_a_stored_grant_from_the_future_counts_as_withdrawn_and_a_withdrawal_gets_a_time_that_can_be_passed(
    empty_database_url,
):
    database.upgrade(empty_database_url, "0009_one_user")
    engine = open_engine(empty_database_url)
    said = {
        "believed": (True, "2026-03-02 09:40:00", "2026-03-02 09:30:00"),
        "grant": (True, "2099-01-01 00:00:00", "2026-03-02 09:30:00"),
        "withdrawal": (False, "2026-03-02 09:40:01", "2026-03-02 09:30:00"),
    }
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO tenants VALUES ('acme', '2026-03-02 09:00:00', 'ann')"),
        )
        connection.execute(
            text(
                "INSERT INTO consents (tenant_id, pseudonym, purpose, granted, notice_version, occurred_at,"
                " recorded_at) VALUES ('acme', :name, 'training', :granted, '1', :at, :recorded)"
            ),
            [
                {
                    "name": name,
                    "granted": granted,
                    **{
                        field: moment if engine.dialect.name == "postgresql" else f"{moment}.000000"
                        for field, moment in (("at", at), ("recorded", recorded))
                    },
                }
                for name, (granted, at, recorded) in said.items()
            ],
        )
    database.upgrade(empty_database_url, "0013_consent_clocks")
    with engine.connect() as connection:
        stored = {
            name: (bool(granted), str(at)[:19])
            for name, granted, at in connection.execute(
                text("SELECT pseudonym, granted, occurred_at FROM consents")
            )
        }
    engine.dispose()
    assert stored == {
        "believed": (True, "2026-03-02 09:40:00"),
        "grant": (False, "2026-03-02 09:30:00"),
        "withdrawal": (False, "2026-03-02 09:30:00"),
    }


def test_a_token_from_before_stays_what_it_was_and_going_down_makes_no_reader_an_administrator(
    empty_database_url,
):
    database.upgrade(empty_database_url, "0013_consent_clocks")
    engine = open_engine(empty_database_url)
    old, reader = bytes(range(32)), bytes(range(1, 33))
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO tenants VALUES ('acme', '2026-03-02 09:00:00', 'ann')"))
        connection.execute(
            text(
                "INSERT INTO operator_tokens (token_digest, tenant_id, name, created_at, created_by)"
                " VALUES (:digest, 'acme', 'bea', '2026-03-02 09:00:00', 'ann')"
            ),
            {"digest": old},
        )
    database.upgrade(empty_database_url, "0014_token_roles")
    with engine.begin() as connection:
        kept = connection.execute(text("SELECT token_id, role, expires_at FROM operator_tokens")).one()
        assert tuple(kept) == (old.hex()[:12], "administrator", None)
        connection.execute(
            text(
                "INSERT INTO operator_tokens (token_digest, token_id, tenant_id, name, role, created_at, created_by)"
                " VALUES (:digest, 'b', 'acme', 'cem', 'reader', '2026-03-02 09:00:00', 'ann')"
            ),
            {"digest": reader},
        )
    database.downgrade(empty_database_url, "0013_consent_clocks")
    with engine.connect() as connection:
        names = list(connection.execute(text("SELECT name FROM operator_tokens")).scalars())
    engine.dispose()
    assert names == ["bea"]


def test_fates_are_kept_by_the_way_into_slots_and_back_and_of_two_the_newer_stays(empty_database_url):
    database.upgrade(empty_database_url, "0015_next_due")
    engine = open_engine(empty_database_url)
    given = {bytes([number]): f"2026-03-{number:02d} 09:30:00" for number in range(1, 20)}
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO processed_events (event_digest, processed_at) VALUES (:digest, :at)"),
            [{"digest": digest, "at": at} for digest, at in given.items()],
        )
    database.upgrade(empty_database_url, "0016_fate_slots")
    with engine.begin() as connection:
        assert {bytes(one) for one in connection.execute(text(FATES)).scalars()} == set(given)
        slots = connection.execute(text("SELECT slot FROM fate_slots WHERE opened_at IS NOT NULL")).scalars()
        assert list(slots) == [0]
        if engine.dialect.name == "postgresql":
            connection.execute(
                text(
                    "INSERT INTO processed_events (event_digest, processed_at, refusal, slot)"
                    " VALUES (:digest, '2026-05-01 09:30:00', 'newer', 3)"
                ),
                {"digest": bytes([1])},
            )
    database.downgrade(empty_database_url, "0015_next_due")
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT event_digest, refusal FROM processed_events")).all()
    engine.dispose()
    assert {bytes(digest) for digest, _ in rows} == set(given)
    assert len(rows) == len(given)
    newer = [bytes(digest) for digest, refusal in rows if refusal == "newer"]
    assert newer == ([bytes([1])] if empty_database_url.startswith("postgresql") else [])


def test_an_upgrade_of_the_newest_schema_changes_nothing(database_url):
    before = tables(database_url)
    assert database.upgrade(database_url) == database.head()
    assert tables(database_url) == before


def test_threads_that_upgrade_at_once_queue_up(empty_database_url):
    failures = []

    def upgrade():
        try:
            database.upgrade(empty_database_url)
        except Exception as error:  # noqa: BLE001  # any failure of a thread must reach the assertion
            failures.append(error)

    threads = [threading.Thread(target=upgrade) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert database.current(empty_database_url) == database.head()


def test_processes_that_upgrade_at_once_queue_up(empty_database_url):
    script = "import sys; from streams.storage import schema; print(schema.upgrade(sys.argv[1]))"
    children = [
        subprocess.Popen(
            [sys.executable, "-c", script, empty_database_url], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    reached = [child.communicate(timeout=240)[0].strip() for child in children]
    assert reached == [database.head()] * 2


def test_a_database_that_is_not_at_the_newest_schema_is_named(empty_database_url):
    with pytest.raises(StorageError, match=r"revision none and this version needs .*db upgrade"):
        database.open_current(empty_database_url)
    with pytest.raises(StorageError, match="does not match the code"):
        database.check(empty_database_url)


def test_a_wrong_or_unreachable_address_is_one_sentence(tmp_path):
    for url in ("nonsense", "oracle://x/y"):
        with pytest.raises(StorageError, match="allowed are sqlite"):
            database.upgrade(url)
    with pytest.raises(StorageError, match="could not be opened"):
        database.upgrade(f"sqlite:///{tmp_path}/missing/folder/x.db")
    with pytest.raises(StorageError, match="could not be opened"):
        database.current("postgresql+psycopg://nobody@127.0.0.1:1/none?connect_timeout=1")


def test_a_database_with_an_open_choice_does_not_go_below_the_choices(database_url):
    """Nobody would release or forfeit what it holds of the budget: only its row names the reservation."""
    engine = open_engine(database_url)
    at = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
    with transaction(engine) as session:
        policies.register_tenant(session, "acme", actor="test", now=at)
        line = ensure_line(session, "acme", "default", now=at)
        row = PromptChoiceRow(
            choice_id="one", tenant_id="acme", domain="default", line_ref=line.line_ref, candidates_json="[]",
            epsilon=0.5, percent=10.0, actor="ann", reason="why", asked_at=at, due_at=at, reservation_id="charge",
        )  # fmt: skip
        session.add(row)
    for state in ("due", "leased", "failed"):
        with engine.begin() as connection:
            connection.execute(text("UPDATE prompt_choices SET state = :state"), {"state": state})
        with (
            nullcontext()
            if state == "failed"
            else pytest.raises(RuntimeError, match="1 choices among prompt")
        ):
            database.downgrade(database_url, "0032_memory_versions")
        assert ("prompt_choices" in tables(database_url)) == (state != "failed")
    engine.dispose()


def test_a_database_that_keeps_vectors_matches_the_code_and_goes_down(empty_database_url):
    if not empty_database_url.startswith("postgresql"):
        pytest.skip("SQLite keeps none")
    database.upgrade(empty_database_url)
    engine = open_engine(empty_database_url)
    with (
        engine.begin() as connection
    ):  # as `discreet memory prepare` makes it, without the extension's column
        connection.execute(
            text(
                "CREATE TABLE memory_vectors (tenant_id varchar(63), collection varchar(63), document_id varchar(128), "
                "version integer, chunk integer, PRIMARY KEY (tenant_id, collection, document_id, version, chunk), "
                "FOREIGN KEY (tenant_id, collection, document_id, version) REFERENCES memory_documents)"
            )
        )
    engine.dispose()
    database.check(empty_database_url)
    assert database.downgrade(empty_database_url, "0027_prompts") == "0027_prompts"
    assert not tables(empty_database_url) & {"memory_vectors", "memory_documents"}


def test_alembic_itself_finds_no_difference(database_url):
    """`alembic check` from a checkout, configured by pyproject.toml and the settings."""
    environment = {**os.environ, "DISCREET_DATABASE__URL": database_url}
    done = subprocess.run(
        [sys.executable, "-m", "alembic", "check"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "No new upgrade operations detected" in done.stdout + done.stderr
