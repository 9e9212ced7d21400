"""Documents over HTTP: approved, listed, looked up and removed by who may, of one's own tenant alone, and audited."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import threading

import aiohttp
import pytest

from personalization.memory import queries
from personalization.memory.sealing import MemoryKeys
from personalization.memory.search import MemorySearch
from privacy.audit import trail as audit_trail
from privacy.policy import versions as policies
from privacy.policy.ceilings import PolicyCeilings
from privacy.storage.session import open_engine, reading, transaction
from streams.http.memory import MemoryAccess
from streams.http.server import HttpServer
from streams.http.tokens import Access
from streams.outbox.events import OutboxAdapterEvents
from streams.storage.operator_tokens import Role, new_token
from tests.fakes.stream_records import NOW
from tests.integration.streams.http.test_operator_api import Probes

KEYS = MemoryKeys(bytes(range(32)))
REFUNDS = {
    "id": "shop/refunds",
    "text": "A refund takes 14 days after the parcel is back.",
    "title": "Refunds",
}
QUESTION = {"question": "How many days does a refund take?"}
ALL = "/v1/tenants/{}/documents"


@pytest.fixture
def installation(sqlite_template, tmp_path):
    shutil.copyfile(sqlite_template, tmp_path / "memory.db")
    engine = open_engine(f"sqlite:///{tmp_path / 'memory.db'}")
    with transaction(engine) as session:
        for tenant in ("acme", "globex"):
            policies.register_tenant(session, tenant, actor="ann", now=NOW)
        tokens = {
            name: new_token(session, tenant, name, role=role, days=9, actor="ann", now=NOW)[0]
            for name, tenant, role in (
                ("bea", "acme", Role.ADMINISTRATOR),
                ("rob", "acme", Role.READER),
                ("sam", "acme", Role.SERVER),
                ("eve", "globex", Role.ADMINISTRATOR),
            )
        }
    yield engine, tokens
    engine.dispose()


def ask(engine, *requests, with_memory=True, embedder=lambda: None, beside=()):
    """Return the answers to requests, one after the other; while one ``beside`` them is being answered, if there is.

    What is called among them is called between those before and after it.
    """
    search = MemorySearch(engine, KEYS, None)
    memory = MemoryAccess(
        engine=engine,
        events=OutboxAdapterEvents(),
        keys=lambda: KEYS,
        embedder=embedder,
        search=lambda: search,
    )

    async def main():
        server = HttpServer(
            host="127.0.0.1",
            port=0,
            probes=Probes(),
            exposition=lambda: b"",
            access=Access(engine, "platform-token", lambda: NOW),
            ceilings=PolicyCeilings(),
            memory=memory if with_memory else None,
        )
        async with server, aiohttp.ClientSession() as client:

            async def one(method, path, token, body):
                headers = {"Authorization": f"Bearer {token}"} if token else {}
                url = f"http://127.0.0.1:{server.port}{path}"
                async with client.request(method, url, headers=headers, json=body) as response:
                    return response.status, await response.json()

            if not beside:
                return [await one(*each) for each in requests if not callable(each) or each()]
            request, began, go_on = beside
            other = asyncio.create_task(one(*request))
            try:
                assert await asyncio.to_thread(began.wait, 20)
                return [await one(*request) for request in requests]
            finally:
                go_on.set()
                assert (await other)[0] == 201

    return asyncio.run(main())


def test_documents_are_approved_listed_found_and_removed_and_each_act_is_audited(installation):
    engine, tokens = installation
    of = ALL.format("acme")
    approved, listed, found, removed, after, again = ask(
        engine,
        ("POST", of, tokens["bea"], {**REFUNDS, "reason": "rules of May"}),
        ("GET", of, tokens["rob"], None),
        ("POST", f"{of}:search", tokens["rob"], QUESTION),
        ("DELETE", f"{of}/shop/refunds?reason=wrong", tokens["bea"], None),
        ("POST", f"{of}:search", "platform-token", QUESTION),
        ("DELETE", f"{of}/shop/nothing", tokens["bea"], None),
    )
    assert (approved[0], approved[1]["documents"][0]["version"]) == (201, 1)
    (one,) = listed[1]["documents"]
    assert (one["id"], one["title"], one["approved_by"]) == ("shop/refunds", "Refunds", "bea")
    assert found[1]["found"]["passages"][0]["citation"] == "default/shop/refunds@1#0-48"
    assert found[1]["found"]["versions"] == ["default@1"]
    assert removed == (
        200,
        {"tenant": "acme", "collection": "default", "removed": [{"id": "shop/refunds", "version": 1}]},
    )
    assert after[1]["found"]["outcome"] == "no_memory"
    assert again[0] == 404
    with reading(engine) as session:
        acts = [
            (one.actor, one.action, one.detail["documents"], one.detail["reason"])
            for one in audit_trail.read(session, "acme")
            if one.action.startswith("memory.")
        ]
    assert acts == [
        ("bea", "memory.documents_added", ["shop/refunds@1"], "rules of May"),
        ("bea", "memory.documents_removed", ["shop/refunds@1"], "wrong"),
    ]


def test_text_that_an_approval_gives_up_is_overwritten_in_the_files_too(installation, tmp_path, monkeypatch):
    engine, tokens = installation
    of = ALL.format("acme")
    monkeypatch.setattr("personalization.memory.versions.KEPT", 0)
    files = [tmp_path / f"memory.db{ending}" for ending in ("", "-wal")]
    assert ask(engine, ("POST", of, tokens["bea"], REFUNDS))[0][0] == 201
    with reading(engine) as session:
        (row,) = queries.listed(session, "acme")
        sealed = bytes(row.sealed)
    assert any(sealed in file.read_bytes() for file in files)
    later = ("POST", of, tokens["bea"], {**REFUNDS, "text": "A refund takes 21 days."})
    hindered = open_engine(f"sqlite:///{files[0]}", busy_timeout_seconds=0.1)
    reader = sqlite3.connect(files[0], isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM memory_documents").fetchall()
    other = ("POST", of, tokens["bea"], {"id": "dog", "text": "The dog is called Bello."})
    failed, refused, beside, repeated = ask(hindered, later, later, other, reader.close, later)
    for status, told in (failed, refused):
        assert (status, told["error"]["code"]) == (503, "privacy.storage.unavailable")
    assert beside[0] == 201, "who gives up nothing is not refused for what another owes"
    status, told = repeated
    assert (status, told["documents"][0]["fate"]) == (201, "unchanged"), "to repeat it finishes it"
    assert not any(sealed in file.read_bytes() for file in files)
    hindered.dispose()


def test_an_approval_that_gives_up_nothing_overwrites_nothing(installation, monkeypatch):
    engine, tokens = installation
    of = ALL.format("acme")
    scrubbed = []
    monkeypatch.setattr("streams.http.memory.scrub", scrubbed.append)
    later = {**REFUNDS, "text": "A refund takes 21 days."}
    tried = ("POST", of, tokens["bea"], REFUNDS), ("POST", of, tokens["bea"], later)
    told = ask(engine, *tried, tried[1])
    assert [(status, body["documents"][0]["fate"]) for status, body in told] == [
        (201, "added"),
        (201, "superseded"),
        (201, "unchanged"),
    ]
    assert scrubbed == []
    monkeypatch.setattr("personalization.memory.versions.KEPT", 0)
    assert ask(engine, tried[0], tried[0])[0][0] == 201
    assert scrubbed == [engine]


def test_a_removal_whose_files_cannot_be_overwritten_says_so_and_repeating_it_finishes(
    installation, tmp_path
):
    _, tokens = installation
    of = ALL.format("acme")
    file = tmp_path / "memory.db"
    engine = open_engine(f"sqlite:///{file}", busy_timeout_seconds=0.1)
    assert ask(engine, ("POST", of, tokens["bea"], REFUNDS))[0][0] == 201
    reader = sqlite3.connect(file, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute(
        "SELECT count(*) FROM memory_documents"
    ).fetchall()  # an earlier state, which the log must keep
    gone = ("DELETE", f"{of}/shop/refunds", tokens["bea"], None)
    (failed, found) = ask(engine, gone, ("POST", f"{of}:search", tokens["bea"], QUESTION))
    assert (failed[0], failed[1]["error"]["code"]) == (503, "privacy.storage.unavailable")
    assert "found no more" in failed[1]["error"]["text"]
    assert found[1]["found"]["outcome"] == "no_memory"
    reader.close()
    (repeated,) = ask(engine, gone)
    assert repeated == (
        200,
        {"tenant": "acme", "collection": "default", "removed": [{"id": "shop/refunds", "version": 1}]},
    )
    assert (tmp_path / "memory.db-wal").stat().st_size == 0
    with reading(engine) as session:
        actions = [one.action for one in audit_trail.read(session, "acme")]
    assert actions.count("memory.documents_removed") == 1
    engine.dispose()


def test_a_token_of_another_tenant_or_without_the_right_gets_and_changes_nothing(installation):
    engine, tokens = installation
    of, search = ALL.format("acme"), ALL.format("acme") + ":search"
    missing = ALL.format("nobody")
    assert ask(engine, ("POST", of, tokens["bea"], REFUNDS))[0][0] == 201
    denied = ask(
        engine,
        *(
            (method, path, tokens[name], body)
            for name in ("eve", "sam")
            for method, path, body in (
                ("GET", of, None),
                ("POST", of, {**REFUNDS, "text": "Worse."}),
                ("POST", search, QUESTION),
                ("DELETE", f"{of}/shop/refunds", None),
            )
        ),
        ("POST", of, tokens["rob"], REFUNDS),
        ("DELETE", f"{of}/shop/refunds", tokens["rob"], None),
        ("GET", of, None, None),
        ("POST", f"{missing}:search", "platform-token", QUESTION),
        ("GET", missing, tokens["eve"], None),
    )
    assert [status for status, _ in denied] == [404] * 4 + [403] * 4 + [403, 403, 401, 404, 404]
    assert denied[0][1]["error"]["text"].replace("acme", "nobody") == denied[-1][1]["error"]["text"]
    assert all("14 days" not in str(body) for _, body in denied)
    assert len(ask(engine, ("GET", of, tokens["rob"], None))[0][1]["documents"]) == 1


def test_what_is_no_document_is_refused_and_without_a_key_there_are_no_routes(installation):
    engine, tokens = installation
    of = ALL.format("acme")
    wrong = (
        {"id": "a"},
        {"id": "../a", "text": "x"},
        {**REFUNDS, "accept_marked": "yes"},
        {**REFUNDS, "valid_until": "soon"},
        {**REFUNDS, "more": 1},
        {**REFUNDS, "collection": "No Such"},
        {"id": "a", "text": "# Heading alone"},
    )
    told = ask(engine, *(("POST", of, tokens["bea"], body) for body in wrong))
    assert [status for status, _ in told] == [422] * len(wrong)
    assert ask(engine, ("POST", f"{of}:search", tokens["bea"], {"question": 1}))[0][0] == 422
    assert ask(engine, ("GET", of, tokens["bea"], None), with_memory=False)[0][0] == 404


def test_while_one_thing_of_a_tenant_is_worked_on_its_other_requests_are_told_to_come_again(installation):
    """A list opens every row and a removal overwrites files: with a few of them nobody else would be answered."""
    engine, tokens = installation
    of = ALL.format("acme")
    assert ask(engine, ("POST", of, tokens["bea"], REFUNDS))[0][0] == 201
    began, go_on = threading.Event(), threading.Event()

    def slow():
        began.set()
        go_on.wait(20)

    told = ask(
        engine,
        ("GET", of, tokens["rob"], None),
        ("POST", of, tokens["bea"], REFUNDS),
        ("DELETE", f"{of}/shop/refunds", tokens["bea"], None),
        ("POST", f"{of}:search", tokens["rob"], QUESTION),
        ("GET", ALL.format("globex"), tokens["eve"], None),
        embedder=slow,
        beside=(("POST", of, tokens["bea"], {**REFUNDS, "id": "slow"}), began, go_on),
    )
    assert [status for status, _ in told] == [429] * 4 + [200]
    assert len(ask(engine, ("GET", of, tokens["rob"], None))[0][1]["documents"]) == 2
