"""Memory through the gateway: what is sent, what headers say, how soon a change counts, and what is never published."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlmodel import col, update

from personalization.memory import documents, trying
from personalization.memory.documents import Place, prepared
from personalization.memory.sealing import MemoryKeys
from personalization.memory.search import MemorySearch, SearchRules
from personalization.memory.tables import MemoryDocumentRow
from personalization.memory.values import Draft, Found, Outcome
from privacy.errors import StorageError
from privacy.policy import versions as policies
from privacy.storage.session import open_engine, transaction
from streams.gateway.choosing import within_share
from streams.gateway.memories import Memories
from streams.processes.memory import drawing
from tests.fakes.embedders import WordHashes
from tests.fakes.engines import engine as engine_of
from tests.fakes.gateways import GatewayThread, style, wait_until

KEYS = MemoryKeys(bytes(range(32)))
REFUNDS = "A refund takes 14 days after the parcel is back."
QUESTION = "How many days does a refund take?"


class Approving:
    """Approves documents as ``discreet memory`` does."""

    def __init__(self, engine):
        self.engine = engine
        self.embedder = WordHashes()
        self.search = MemorySearch(engine, KEYS, self.embedder, rules=SearchRules(floor=0.25))

    def add(self, tenant, document_id, text):
        draft = Draft(document_id=document_id, title="", text=text)
        with transaction(self.engine) as session:
            documents.add(session, KEYS, self.place(tenant), prepared([draft], self.embedder))

    def remove(self, tenant, document_id):
        with transaction(self.engine) as session:
            documents.remove(session, KEYS, self.place(tenant), [document_id])

    def place(self, tenant):
        return Place(tenant_id=tenant, collection="default", actor="ann", now=datetime.now(UTC))

    def attempt(self, tenant, document_id, text, percent):
        draft = Draft(document_id=document_id, title="", text=text)
        with transaction(self.engine) as session:
            cut = prepared([draft], self.embedder)
            return trying.attempt(session, KEYS, self.place(tenant), cut, percent).candidate

    def decide(self, tenant, decision):
        with transaction(self.engine) as session:
            if decision == "promote":
                trying.promote(session, KEYS, self.place(tenant))
            else:
                trying.abandon(session, self.place(tenant))

    def find(self, tenant, domain, question, user):
        return drawing(self.search)(tenant, domain, question, user)


@pytest.fixture(scope="module")
def behind():
    with engine_of("vllm") as process:
        yield process


@pytest.fixture
def approving(sqlite_template, tmp_path, clock):
    """On one database alone: the suite of memory itself runs on each."""
    shutil.copyfile(sqlite_template, tmp_path / "memory.db")
    engine = open_engine(f"sqlite:///{tmp_path / 'memory.db'}")
    with transaction(engine) as session:
        for tenant in ("acme", "globex"):
            policies.register_tenant(session, tenant, actor="test", now=clock.now())
    yield Approving(engine)
    engine.dispose()


@pytest.fixture
def gateway(behind, approving, tmp_path):
    with GatewayThread(tmp_path, url=behind.url, find=approving.find) as gateway:
        gateway.memories = {tenant: frozenset({""}) for tenant in ("acme", "globex")}
        gateway.tokens = {tenant: gateway.token(tenant) for tenant in ("acme", "globex", "initech")}
        yield gateway


def ask(gateway, tenant="acme", question=QUESTION, **more):
    raw = gateway.client(gateway.tokens[tenant]).chat.completions.with_raw_response.create(
        **{"model": "discreet", "messages": [{"role": "user", "content": question}], **more}
    )
    return raw.headers.get("x-discreet-memory"), raw


def content(raw):
    return raw.parse().choices[0].message.content


def test_a_passage_stands_before_the_question_and_its_place_in_a_header(gateway, approving):
    approving.add("acme", "refunds", REFUNDS)
    told, raw = ask(gateway)
    assert told == "default/refunds@1#0-48"
    assert "memory=on;found;default@1" in raw.headers["x-discreet-levers"]
    said = content(raw)
    assert "14 days" in said
    assert said.endswith(QUESTION)
    assert "14 days" not in str(raw.headers)


def test_a_change_counts_for_the_next_question_and_what_was_removed_is_not_cited_again(gateway, approving):
    approving.add("acme", "refunds", REFUNDS)
    assert "14 days" in content(ask(gateway)[1])
    start = time.monotonic()
    approving.add("acme", "refunds", REFUNDS.replace("14", "21"))
    told, raw = ask(gateway)
    assert told == "default/refunds@2#0-48"
    assert "21 days" in content(raw)
    assert "14 days" not in content(raw)
    approving.remove("acme", "refunds")
    told, raw = ask(gateway)
    assert time.monotonic() - start < 5.0
    assert told == "no_memory"
    assert "days after" not in content(raw)


def test_a_share_of_the_users_is_answered_from_a_candidate_until_it_is_promoted_or_abandoned(
    gateway, approving
):
    approving.add("acme", "refunds", REFUNDS)
    assert ask(gateway, user="user0")[0] == "default/refunds@1#0-48"
    start = time.monotonic()
    tried = approving.attempt("acme", "refunds", REFUNDS.replace("14", "21"), 30)
    users = [f"user{number}" for number in range(100)]
    drawn = next(user for user in users if within_share(tried.salt, user, 30))
    other = next(user for user in users if not within_share(tried.salt, user, 30))
    assert "21 days" in content(ask(gateway, user=drawn)[1])
    assert time.monotonic() - start < 5.0
    for _ in range(2):
        told, raw = ask(gateway, user=drawn)
        assert told == "default/refunds@2#0-48; candidate=default@2"
        assert "memory=on;found;default@1~2" in raw.headers["x-discreet-levers"]
        assert "21 days" in content(raw)
        for user in (other, None):
            told, raw = ask(gateway, **({} if user is None else {"user": user}))
            assert told == "default/refunds@1#0-48"
            assert "memory=on;found;default@1," in raw.headers["x-discreet-levers"]
            assert "14 days" in content(raw)
    assert ask(gateway, question="Who?", user=drawn)[0] == "nothing_found; candidate=default@2"
    approving.decide("acme", "abandon")
    assert ask(gateway, user=drawn)[0] == "default/refunds@1#0-48"
    approving.attempt("acme", "refunds", REFUNDS.replace("14", "21"), 30)
    start = time.monotonic()
    approving.decide("acme", "promote")
    for user in (drawn, other):
        told, raw = ask(gateway, user=user)
        assert told == "default/refunds@3#0-48"
        assert "21 days" in content(raw)
    assert time.monotonic() - start < 5.0
    approving.remove("acme", "refunds")
    assert ask(gateway, user=drawn)[0] == "no_memory"


def test_documents_and_candidates_that_are_not_what_was_signed_are_counted(gateway, approving):
    """Whoever is on duty learns of it from the metric; the log names the collection."""
    begun = not_signed(gateway)
    assert begun == {"collection": 0.0, "candidate": 0.0}, "a series that begins at 1 has not increased"
    approving.add("acme", "refunds", REFUNDS)
    approving.attempt("acme", "refunds", REFUNDS.replace("14", "21"), 30)
    assert ask(gateway)[0] == "default/refunds@1#0-48"
    assert not_signed(gateway) == begun
    for version, told, counted in (
        (2, "default/refunds@1#0-48", {"collection": 0.0, "candidate": 1.0}),
        (1, "no_memory", {"collection": 1.0, "candidate": 2.0}),
    ):
        with transaction(approving.engine) as session:
            changed = update(MemoryDocumentRow).where(col(MemoryDocumentRow.version) == version)
            session.exec(changed.values(approved_by="mallory"))
        approving.search = MemorySearch(approving.engine, KEYS, None)  # as after a start
        assert ask(gateway)[0] == told
        assert not_signed(gateway) == counted


def not_signed(gateway):
    request = urllib.request.Request(f"{gateway.url}/metrics", headers={"Authorization": "Bearer operator"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        text = answer.read().decode()
    return {
        sample.labels["what"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "discreet_gateway_memory_not_signed_total"
    }


def test_nothing_found_is_said_and_a_tenant_without_documents_is_asked_as_before(gateway, approving):
    approving.add("acme", "refunds", REFUNDS)
    told, raw = ask(gateway, question="What is the capital of France?")
    assert told == "nothing_found"
    assert "memory=off;nothing_found;default@1" in raw.headers["x-discreet-levers"]
    assert content(raw).endswith("|What is the capital of France?")
    assert ask(gateway, "globex")[0] == "no_memory"
    assert ask(gateway, "initech")[0] is None
    assert ask(gateway, model="discreet@base")[0] is None


def test_no_tenant_is_answered_from_anothers_documents(gateway, approving):
    approving.add("acme", "refunds", REFUNDS)
    approving.add("globex", "refunds", REFUNDS.replace("14", "99"))
    assert "14 days" in content(ask(gateway)[1])
    assert "99 days" in content(ask(gateway, "globex")[1])
    assert "days after" not in content(ask(gateway, "initech")[1])


def test_a_conversation_with_tools_or_another_form_is_left_alone(gateway, approving):
    approving.add("acme", "refunds", REFUNDS)
    told, _ = ask(gateway, tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}])
    assert told is None


def test_a_template_and_notes_fit_together(gateway, approving):
    approving.add("acme", "refunds", REFUNDS)
    gateway.publish("acme", verified=False, style=style("Be brief. {{ prompt }}"))
    wait_until(lambda: content(ask(gateway)[1]).endswith(f"Be brief. {QUESTION}"))
    assert "14 days" in content(ask(gateway)[1])


def test_streams_carry_the_header_too(gateway, approving):
    approving.add("acme", "refunds", REFUNDS)
    told, raw = ask(gateway, stream=True)
    assert told == "default/refunds@1#0-48"
    assert "14 days" in "".join(
        piece.choices[0].delta.content or "" for piece in raw.parse() if piece.choices
    )


def test_what_carries_a_passage_is_never_published_and_what_does_not_is(gateway, approving):
    import json

    approving.add("acme", "refunds", REFUNDS)
    gateway.line("acme")
    gateway.consent("acme", "ann")

    def feedback(answer_id, **body):
        request = urllib.request.Request(
            f"{gateway.url}/v1/feedback",
            json.dumps({"id": answer_id, "user": "ann", **body}).encode(),
            {"Authorization": f"Bearer {gateway.tokens['acme']}"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())["result"]

    wait_until(
        lambda: (
            feedback(ask(gateway, question="Hello!", user="ann")[1].parse().id, outcome="accepted")
            == "published"
        )
    )
    before = len(gateway.interactions())
    carried = ask(gateway, user="ann")[1].parse().id  # the engine of this test repeats what it was asked
    assert feedback(carried, outcome="accepted") == "counted"
    assert len(gateway.interactions()) == before


def test_a_memory_that_does_not_tell_in_time_leaves_the_answer_without(behind, tmp_path):
    def find(*_):
        if failing:
            raise StorageError("away")
        time.sleep(0.6)

    failing = True
    with GatewayThread(tmp_path, url=behind.url, find=find, memory_seconds=0.2) as gateway:
        gateway.memories = {"acme": frozenset({""})}
        gateway.tokens = {"acme": gateway.token("acme")}
        assert ask(gateway)[0] == "away"
        failing = False
        told, raw = ask(gateway)
        assert told == "away"
        assert content(raw).endswith(f"|{QUESTION}")


def test_requests_that_are_not_let_in_look_nothing_up(behind, tmp_path):
    asked, go_on = [], threading.Event()

    def find(*about):
        asked.append(about)
        go_on.wait(20)
        raise StorageError("away")

    with GatewayThread(
        tmp_path, url=behind.url, find=find, memory_seconds=30, most_requests_per_tenant=1
    ) as gateway:
        gateway.memories = {"acme": frozenset({""})}
        gateway.tokens = {"acme": gateway.token("acme")}
        for stream in (False, True):
            go_on.clear()
            with ThreadPoolExecutor(1) as pool:
                first = pool.submit(ask, gateway)
                wait_until(lambda: asked)
                with pytest.raises(openai.RateLimitError):
                    ask(gateway, stream=stream)
                go_on.set()
                first.result()
            assert len(asked) == 1
            asked.clear()


def test_memory_is_the_first_to_go_where_a_budget_does_not_hold(behind, approving, tmp_path):
    approving.add("acme", "refunds", REFUNDS)

    def slow(*asked):
        time.sleep(0.05)
        return approving.find(*asked)

    with GatewayThread(tmp_path, url=behind.url, find=slow, latency_budgets={"acme": 40}) as gateway:
        gateway.memories = {"acme": frozenset({""})}
        gateway.tokens = {"acme": gateway.token("acme")}
        told = [ask(gateway)[1].headers for _ in range(20)]
        assert any(
            one.get("x-discreet-dropped") == "retrieval" and "x-discreet-memory" not in one for one in told
        )


def test_a_slow_memory_takes_no_more_than_the_budget_leaves_and_the_answer_says_so(
    behind, approving, tmp_path
):
    approving.add("acme", "refunds", REFUNDS)
    go_on, asked = threading.Event(), []

    def stuck(*about):
        asked.append(about)
        go_on.wait(20)
        return approving.find(*about)

    with GatewayThread(tmp_path, url=behind.url, find=stuck, latency_budgets={"acme": 60}) as gateway:
        gateway.memories = {tenant: frozenset({""}) for tenant in ("acme", "globex")}
        gateway.tokens = {tenant: gateway.token(tenant) for tenant in ("acme", "globex")}
        for stream in (False, True):
            start = time.monotonic()
            headers = ask(gateway, stream=stream)[1].headers
            assert time.monotonic() - start < 1.5, "without a budget it waits for two seconds"
            assert "memory=off;over_budget" in headers["x-discreet-levers"]
            assert headers["x-discreet-dropped"] == "retrieval"
            assert "x-discreet-memory" not in headers
        assert len(asked) == 2
        go_on.set()
        assert ask(gateway, "globex")[0] is not None, "nobody else's memory is cut"


def test_more_than_may_wait_are_not_looked_up(monkeypatch):
    import asyncio

    told, asked = [], []

    def find(*about):
        asked.append(about)
        time.sleep(0.2)

    async def run():
        memories = Memories(find, seconds=0.05, told=told.append)
        monkeypatch.setattr("streams.gateway.memories.MOST_WAITING", 1)
        await memories.find("acme", "default", "a")
        await memories.find("acme", "default", "b")
        memories.close()

    asyncio.run(run())
    assert told == ["away", "away"]
    assert asked == [("acme", "default", "a", None)]


def test_what_a_latency_budget_ends_is_no_slow_memory():
    """Whoever is on duty would make the memory wait longer, which helps nobody whose budget is short."""
    import asyncio

    go_on, told, away = threading.Event(), [], []

    def find(*_):
        go_on.wait(20)

    async def run():
        memories = Memories(find, seconds=0.06, told=told.append, away=away.append)
        assert await memories.find("acme", "default", "a", room=0.01) is None
        assert (told, away) == ([], [])
        assert (await memories.find("acme", "default", "b", room=5)).outcome is Outcome.AWAY
        go_on.set()
        memories.close()

    asyncio.run(run())
    assert (told, away) == (["away"], ["slow"])


def test_a_tenant_whose_memory_is_slow_makes_no_other_tenant_wait(monkeypatch):
    import asyncio

    monkeypatch.setattr("streams.gateway.memories.MOST_OF_TENANT", 8)
    go_on, told, away = threading.Event(), [], []

    def find(tenant, _domain, question, _user):
        if tenant == "acme":
            go_on.wait(20)
        return Found(outcome=Outcome.NOTHING_FOUND, versions=(question,))

    async def run():
        memories = Memories(find, seconds=0.3, told=told.append, away=away.append)
        crowd = [asyncio.create_task(memories.find("acme", "default", str(n))) for n in range(12)]
        await asyncio.sleep(0)
        others = [await memories.find("globex", "default", str(n)) for n in range(20)]
        assert [one.versions for one in others] == [(str(n),) for n in range(20)]
        assert {(await one).outcome for one in crowd} == {Outcome.AWAY}
        assert sorted(away) == ["slow"] * 8 + ["tenant_full"] * 4
        # Who gave up holds no place any more, but for the two that are looked up still.
        assert memories._places.total() == 2
        go_on.set()
        assert (await memories.find("acme", "default", "again")).versions == ("again",)
        memories.close()

    asyncio.run(run())
    assert told.count("away") == 12


def test_tenants_whose_indexes_are_stuck_leave_the_threads_to_the_others():
    """Nobody can end a look-up: once it takes too long another thread takes the place of its own, up to a bound."""
    import asyncio

    go_on, started = threading.Event(), []

    def find(tenant, *_):
        started.append(tenant)
        if tenant.startswith("stuck"):
            go_on.wait(20)
        return Found(outcome=Outcome.NOTHING_FOUND)

    async def run():
        memories = Memories(find, seconds=0.05, told=lambda _: None)

        async def outcome(tenant):
            return (await memories.find(tenant, "default", "a")).outcome

        for tenants in (("stuck-0", "stuck-1"), ("stuck-2",)):  # six threads, two of each
            crowd = [tenant for tenant in tenants for _ in range(3)]
            assert set(await asyncio.gather(*map(outcome, crowd))) == {Outcome.AWAY}
        before = [await outcome(f"quick-{n}") for n in range(4)]
        assert await outcome("stuck-0") is Outcome.AWAY
        held = sorted(started[:6])
        # More than the bound are late: as many threads as ever, and no more, can be held beside them.
        crowd = [f"stuck-{n}" for n in (3, 4, 5) for _ in range(2)]
        await asyncio.gather(*map(outcome, crowd))
        after, most = await outcome("quick-9"), memories._running.total()
        go_on.set()
        while memories._running.total():
            await asyncio.sleep(0.01)
        again = await outcome("stuck-0")
        memories.close()
        return before, held, after, most, memories._late.total(), again

    before, held, after, most, late, again = asyncio.run(run())
    assert before == [Outcome.NOTHING_FOUND] * 4
    assert held == ["stuck-0", "stuck-0", "stuck-1", "stuck-1", "stuck-2", "stuck-2"]
    assert (after, most) == (Outcome.AWAY, 10)
    assert late == 0
    assert again is Outcome.NOTHING_FOUND


def test_a_look_up_that_is_stuck_holds_up_no_end_of_the_process():
    """As after SIGTERM: nobody waits for what was given up on, and there is no other way to end it."""
    program = (
        "import asyncio, time\n"
        "from streams.gateway.listening import options\n"
        "from streams.gateway.memories import Memories\n"
        "async def main():\n"
        "    memories = Memories(lambda *_: time.sleep(600), seconds=0.05, told=print)\n"
        "    await memories.find('acme', 'default', 'a')\n"
        "    memories.close()\n"
        "with asyncio.Runner(**options()) as runner:\n"
        "    runner.run(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout.split()[-1:]) == (0, ["away"]), done.stderr


def test_look_ups_that_are_in_time_end_before_the_end_and_late_ones_are_not_waited_for():
    import asyncio

    go_on, began, ended = threading.Event(), [], []

    def find(tenant, *_):
        began.append(tenant)
        go_on.wait(20 if tenant == "stuck" else 0.5)
        ended.append(tenant)
        return Found(outcome=Outcome.NOTHING_FOUND)

    async def run():
        memories = Memories(find, seconds=3, told=lambda _: None)
        stuck = asyncio.create_task(memories.find("stuck", "default", "a"))
        assert (await stuck).outcome is Outcome.AWAY
        quick = asyncio.create_task(memories.find("quick", "default", "a"))
        while "quick" not in began:
            await asyncio.sleep(0.01)
        memories.close()
        assert ended == ["quick"]
        assert (await quick).outcome is Outcome.NOTHING_FOUND
        never = asyncio.create_task(memories.find("later", "default", "a", room=0.1))
        assert await never is None
        assert began == ["stuck", "quick"], "nothing is started any more"

    asyncio.run(run())
    go_on.set()


def test_a_machine_without_threads_answers_without_the_memory_and_with_it_when_it_has_some(monkeypatch):
    """A place that was never given back would take the memory from everybody until the gateway is started again."""
    import asyncio

    why, honest = [], threading.Thread.start

    def refuse(thread):
        if thread.name == "gateway-memory":
            raise RuntimeError("can't start new thread")
        honest(thread)

    async def run():
        memories = Memories(
            lambda *_: Found(outcome=Outcome.NOTHING_FOUND), seconds=3, told=lambda _: None, away=why.append
        )
        monkeypatch.setattr(threading.Thread, "start", refuse)
        for number in range(12):
            found = await memories.find(f"tenant-{number}", "default", "a")
            assert found.outcome is Outcome.AWAY
        monkeypatch.undo()
        again = await memories.find("another", "default", "a")
        memories.close()
        return again.outcome

    assert asyncio.run(run()) is Outcome.NOTHING_FOUND
    assert why == ["failed"] * 12


def test_all_tenants_together_have_a_bound_and_a_failure_says_so(monkeypatch):
    import asyncio

    monkeypatch.setattr("streams.gateway.memories.MOST_WAITING", 2)
    away = []

    def find(tenant, *_):
        if tenant == "globex":
            raise StorageError("away")
        time.sleep(0.1)
        return Found(outcome=Outcome.NOTHING_FOUND)

    async def run():
        memories = Memories(find, seconds=5, told=lambda _: None, away=away.append)
        assert (await memories.find("globex", "default", "a")).outcome is Outcome.AWAY
        found = await asyncio.gather(*(memories.find(f"t{n}", "default", "a") for n in range(3)))
        memories.close()
        return [one.outcome for one in found]

    assert asyncio.run(run()) == [Outcome.NOTHING_FOUND, Outcome.NOTHING_FOUND, Outcome.AWAY]
    assert away == ["failed", "full"]
