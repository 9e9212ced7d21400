"""The loop is closed through the gateway: users ask and edit, a round trains, unseen users' answers follow the tenant.

The product's only client is the official one of OpenAI's API, pointed at the gateway. Everything behind it is real:
Apache Kafka where there is one (else the embedded broker), worker, trainer, engine and gateway, each a process of its
own, on a tiny base model whose weights are random, so what it learns is simple.

The engine is transformers in ``discreet serve``, and a real llama.cpp or vLLM behind ``discreet bridge`` where the
environment names one, as for the engines' own suite:

    DISCREET_TEST_LLAMACPP=DIR python -m pytest -n 0 tests/e2e/streams/gateway/test_closing_the_loop.py -k real-llamacpp
    DISCREET_TEST_VLLM=DIR python -m pytest -n 0 tests/e2e/streams/gateway/test_closing_the_loop.py -k real-vllm
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import openai
import pytest
from sqlmodel import func, select

from personalization.rounds.queries import open_round
from personalization.rounds.tables import RoundRow
from personalization.signals.rows import SignalRow
from privacy.policy import versions as policies
from privacy.storage.session import open_engine, transaction
from streams.broker import topics
from streams.client import ConsentPublisher
from streams.contracts.topics import ADAPTERS
from streams.demo.environment import DemoEnvironment, free_port, new_secrets
from streams.gateway.callers import Right
from streams.gateway.tokens import new_gateway_token
from streams.outbox.tables import OutboxRow
from streams.storage import schema as database
from streams.storage.tables import ServingAckRow
from tests.conftest import KAFKA
from tests.fakes.bridges import REAL_LLAMACPP, kinds
from tests.fakes.keys import prepared_store_url
from tests.fakes.real_vllm import CAPACITY, KEY, MODEL, real_vllm
from tests.fakes.tiny_gguf import write_tiny_gguf
from tests.fakes.tiny_models import write_tiny_base

ROOT = Path(__file__).resolve().parents[4]
ROUND_SECONDS = START_SECONDS = VERIFY_SECONDS = 400
USERS = 24
UNSEEN = 12
TENANT = f"acme-{secrets.token_hex(3)}"  # the broker may be shared
OTHER = f"globex-{secrets.token_hex(3)}"
EDIT = "aaaa"  # what all of the tenant's users make of every answer; a tiny model with random weights can learn that
ENGINES = ["transformers", *(kind for kind in kinds() if kind.startswith("real-"))]


def prompt_of(user, turn):
    return f"what about part {user * 7 + turn} of {chr(97 + user % 26)}?"


@pytest.fixture
def kafka_bootstrap(request):
    """Apache Kafka where there is one, else the embedded broker: one run takes the better part of a minute."""
    return KAFKA or request.getfixturevalue("embedded_bootstrap")


def base_of(kind, folder):
    """Return the directory of the base that an engine serves; a real vLLM has had its own since it started."""
    if kind == "real-vllm":
        return real_vllm().base
    return (
        write_tiny_base(folder, hidden=128, embedding=0.35)
        if kind == "real-llamacpp"
        else write_tiny_base(folder)
    )


def engine_of(kind, base, folder, token):
    """Return what keeps an engine at what is wanted, as a command, and settings of it and of the gateway."""
    if kind == "transformers":
        return ("serve",), {}
    port, bridge_port = real_vllm().port if kind == "real-vllm" else free_port(), free_port()
    settings = {
        "DISCREET_BRIDGE__PORT": str(bridge_port),
        "DISCREET_BRIDGE__TOKEN": token,
        "DISCREET_BRIDGE__BASE_MODEL": str(base),
        "DISCREET_BRIDGE__ENGINE_KEY": KEY,
        "DISCREET_BRIDGE__CAPACITY": str(CAPACITY),
        "DISCREET_GATEWAY__URL": f"http://127.0.0.1:{port}",
        "DISCREET_GATEWAY__ENGINE_TOKEN": KEY,
        "DISCREET_GATEWAY__ENGINE_MODEL": MODEL,
        "DISCREET_GATEWAY__BRIDGE_URL": f"http://127.0.0.1:{bridge_port}",
        "DISCREET_GATEWAY__BRIDGE_TOKEN": token,
        "DISCREET_GATEWAY__CONNECT_SECONDS": "10",
    }
    if kind == "real-vllm":
        return ("bridge", "vllm"), settings | {
            "DISCREET_GATEWAY__ENGINE": "vllm",
            "DISCREET_BRIDGE__ENGINE_URL": f"http://127.0.0.1:{port}",
            "DISCREET_BRIDGE__ENGINE_MODEL": MODEL,
            "DISCREET_BRIDGE__PRECISION": "float32",
        }
    return ("bridge", "llamacpp"), settings | {
        "DISCREET_GATEWAY__ENGINE": "llamacpp",
        "DISCREET_BRIDGE__ENGINE": os.environ[REAL_LLAMACPP],
        "DISCREET_BRIDGE__ENGINE_PORT": str(port),
        "DISCREET_BRIDGE__GGUF": str(write_tiny_gguf(base, folder / "tiny.gguf")),
    }


@pytest.fixture(params=ENGINES)
def stack(request, tmp_path, kafka_bootstrap):
    master_key, adapter_key, token = new_secrets()
    base = base_of(request.param, tmp_path / "base")
    command, settings = engine_of(request.param, base, tmp_path, token)
    environment = DemoEnvironment(
        state=tmp_path / "state",
        broker=kafka_bootstrap,
        base_model=base,
        master_key=master_key,
        adapter_key=adapter_key,
        worker_port=free_port(),
        serving_port=free_port(),
        token=token,
    )
    gateway_port = free_port()
    variables = {
        **environment.variables(),
        "OMP_NUM_THREADS": "1",
        "DISCREET_BROKER__GROUP": f"loop-{secrets.token_hex(4)}",
        "DISCREET_TRAINER__THREADS": "1",
        "DISCREET_TRAINER__POLL_SECONDS": "0.2",
        "DISCREET_TRAINER__MAX_PUBLIC_TEXT_CHANGE": "",
        "DISCREET_GATEWAY__PORT": str(gateway_port),
        "DISCREET_GATEWAY__URL": f"http://127.0.0.1:{environment.serving_port}",
        **settings,
    }
    (tmp_path / "state").mkdir()
    url = f"sqlite:///{tmp_path / 'state' / 'discreet.sqlite3'}"
    database.upgrade(url)
    prepared_store_url(url)
    with topics.open_admin({"bootstrap_servers": kafka_bootstrap}) as admin:
        topics.create_topics(admin, partitions=2)
    engine = open_engine(url)
    started = []

    class Stack:
        broker = kafka_bootstrap
        base_url = f"http://127.0.0.1:{gateway_port}"

        def start(self, *commands):
            for name, *more in commands:
                with (tmp_path / f"{name}.log").open("wb") as log:
                    process = subprocess.Popen(
                        [sys.executable, "-m", "streams.cli.main", name, *more],
                        cwd=ROOT,
                        env=variables | (environment.of_the_trainer() if name == "trainer" else {}),
                        stdout=log,
                        stderr=log,
                    )
                started.append((name, process))

        def wait(self, done, seconds, what):
            end = time.monotonic() + seconds
            while not done():
                for name, process in started:
                    assert process.poll() is None, self.said(name)
                assert time.monotonic() < end, (what, self.said(command[0]))
                time.sleep(0.2)

        def said(self, name):
            return (tmp_path / f"{name}.log").read_text()[-4_000:]

    stack = Stack()
    stack.kind, stack.serving = request.param, command
    stack.engine, stack.started = engine, started
    yield stack
    for _, process in started:
        process.kill()
        process.wait()
    engine.dispose()


def answers_at(base_url):
    try:
        with urllib.request.urlopen(base_url + "/readyz", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def committed_to_verified(stack, served_name):
    """Return the seconds to the verified report: from the round's last commit, and from the record's sending."""
    with transaction(stack.engine) as session:
        (row,) = session.exec(select(RoundRow)).all()
        ack = session.exec(select(ServingAckRow).where(ServingAckRow.served_name == served_name)).one()
        sent = session.exec(
            select(func.max(OutboxRow.published_at)).where(OutboxRow.topic == ADAPTERS.name)
        ).one()
    assert ack.status == "verified"
    return {
        "committed_to_verified_seconds": round((ack.occurred_at - row.closed_at).total_seconds(), 2),
        "sent_to_verified_seconds": round((ack.occurred_at - sent).total_seconds(), 2),
        "probe_effect": ack.probe_effect,
    }


@pytest.mark.timeout(2_400)
def test_edits_through_the_gateway_change_the_answers_of_unseen_users(stack):
    now = datetime.now(UTC)
    with transaction(stack.engine) as session:
        for tenant in (TENANT, OTHER):
            policies.register_tenant(session, tenant, actor="test", now=now)
            policies.set_policy(
                session,
                tenant,
                {
                    "declared_users": USERS,
                    "minimum_cohort": USERS // 2,
                    "sample_rate": 1.0,
                    "steps": 30,
                    "planned_releases": 1,
                    "contribution_bound": 4,
                    "lifetime_epsilon": 60.0,
                    "period_epsilon": 60.0,
                    "release_padding_seconds": 0,
                },
                actor="test",
                reason="test",
                now=now,
            )
        tokens = {
            tenant: new_gateway_token(session, tenant, "product", rights=Right, actor="test", now=now)
            for tenant in (TENANT, OTHER)
        }
    with ConsentPublisher(stack.broker, source="/test") as consents:
        for user in range(USERS):
            consents.grant(tenant_id=TENANT, user_id=f"u{user}", notice_version="1")
    stack.start(("worker",), stack.serving, ("gateway",))
    stack.wait(lambda: answers_at(stack.base_url), START_SECONDS, "the gateway does not become ready")
    with (
        openai.OpenAI(base_url=f"{stack.base_url}/v1", api_key=tokens[TENANT], timeout=60) as client,
        openai.OpenAI(base_url=f"{stack.base_url}/v1", api_key=tokens[OTHER], timeout=60) as other,
    ):
        said = []

        def use(user):
            for turn in range(4):
                question = prompt_of(user, turn)
                answer = client.chat.completions.create(
                    model="discreet",
                    messages=[{"role": "user", "content": question}],
                    max_tokens=12,
                    user=f"u{user}",
                )
                told = client.post(
                    "/feedback",
                    cast_to=object,
                    body={
                        "id": answer.id,
                        "outcome": "edited",
                        "final_text": EDIT,
                        "user": f"u{user}",
                    },
                )
                said.append(told["result"])

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(use, range(USERS)))
        print(Counter(said))
        assert set(said) == {"published"}
        assert len(said) == USERS * 4

        def stored():
            with transaction(stack.engine) as session:
                return session.exec(select(func.count()).select_from(SignalRow)).one() == USERS * 4

        stack.wait(stored, 120, "not every edit was stored")

        before = asked(client)
        assert {version for version, _ in before} == {"base"}
        with transaction(stack.engine) as session:
            open_round(session, TENANT, "default", actor="test", now=datetime.now(UTC))
        stack.start(("trainer",))

        def closed():
            with transaction(stack.engine) as session:
                rows = session.exec(select(RoundRow)).all()
                return bool(rows) and all(row.state in {"done", "failed", "declined"} for row in rows)

        stack.wait(closed, ROUND_SECONDS, "the round does not end")
        with transaction(stack.engine) as session:
            (row,) = session.exec(select(RoundRow)).all()
            assert row.state == "done", (row.outcome_code, stack.said("trainer"))
        stack.wait(
            lambda: asked(client, 1)[0][0] != "base",
            VERIFY_SECONDS,
            "the gateway does not apply the new version",
        )
        after = asked(client)
        assert all(re.fullmatch(r"a-[0-9a-f]{12}-v1", version) for version, _ in after)
        follow_before = sum(text.startswith(EDIT[0]) for _, text in before)
        follow_after = sum(text.startswith(EDIT[0]) for _, text in after)
        print(
            json.dumps(
                {
                    "engine": stack.kind,
                    **committed_to_verified(stack, after[0][0]),
                    "before": follow_before,
                    "after": follow_after,
                    "of": UNSEEN,
                    "texts": [before[:3], after[:3]],
                }
            )
        )
        assert follow_before <= UNSEEN // 4
        assert follow_after >= UNSEEN * 3 // 4
        # Another tenant's users still get the base, at the very same prompts.
        assert asked(other) == before

    for _, process in stack.started:
        process.send_signal(signal.SIGTERM)
    assert [process.wait(120) for _, process in stack.started] == [0] * len(stack.started)


def asked(client, count=UNSEEN):
    """Return (version, text) of the answers to unseen users' prompts."""
    found = []
    for user in range(USERS, USERS + count):
        raw = client.chat.completions.with_raw_response.create(
            model="discreet",
            messages=[{"role": "user", "content": prompt_of(user, 1)}],
            max_tokens=12,
            temperature=0,
            user=f"u{user}",
        )
        found.append((raw.headers["x-discreet-version"], raw.parse().choices[0].message.content))
    return found
