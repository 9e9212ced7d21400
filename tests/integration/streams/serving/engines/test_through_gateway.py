"""Two tenants through gateway and bridge on every engine: each is answered by its own adapter, not as by the base.

The client is the official one. On the real engines too where there are any; see ``test_engines.py``.
"""

from __future__ import annotations

import pytest

from tests.fakes.bridged_engines import KEY
from tests.fakes.bridges import LINES, World, kinds
from tests.fakes.engines import BASE
from tests.fakes.gateways import GatewayThread, wait_until

TENANTS = dict(zip(("acme", "globex"), LINES, strict=False))
QUESTION = [{"role": "user", "content": "Where is my parcel?"}]


@pytest.fixture(params=kinds())
def world(request, tmp_path):
    world = World(request.param, tmp_path)
    yield world
    world.close()


def url_of(world):
    if world.kind == "real-vllm":
        return world.engine._http._url
    return world.fake.url if world.kind == "vllm" else world.servers[0].http._url


def told(gateway, token, *, model="discreet", user="never seen before"):
    """Return the version that answered, and its words with what else it thought of."""
    raw = gateway.client(token, timeout=120).chat.completions.with_raw_response.create(
        model=model, messages=QUESTION, max_tokens=4, temperature=0, logprobs=True, top_logprobs=5, user=user
    )
    (choice,) = raw.parse().choices
    content = choice.logprobs.content if choice.logprobs else []
    thought = [[(other.token, round(other.logprob, 2)) for other in one.top_logprobs] for one in content]
    return raw.headers["x-discreet-version"], (choice.message.content, thought)


def test_each_tenant_is_answered_by_its_own_adapter_and_the_base_by_none(world, tmp_path):
    names = {}
    for tenant, line in TENANTS.items():
        version = world.version(line, 1)
        world.publish(line, version)
        names[tenant] = version.served_name
        assert world.current(line) == version.served_name
    kind = world.kind.removeprefix("real-")
    gateway = GatewayThread(
        tmp_path / "gateway",
        engine=kind,
        url=url_of(world),
        engine_token=KEY,
        engine_model=BASE,
        connect_seconds=10.0,
    )
    gateway.broker, gateway.signer = world.broker, world.lines[LINES[0]].signer
    gateway.lines = {tenant: {"default": line} for tenant, line in TENANTS.items()}
    gateway.verified = set(world.bridge.routes.document()["verified"])
    with gateway:
        tokens = {tenant: gateway.token(tenant) for tenant in TENANTS}
        found = {}
        for tenant, token in tokens.items():
            wait_until(lambda a=token, b=names[tenant]: told(gateway, a)[0] == b, 120)
            found[tenant] = told(gateway, token)[1]
        by, found["base"] = told(gateway, tokens["acme"], model="discreet@base")
        assert by == "base"
        answers = list(found.values())
        assert all(answers.count(one) == 1 for one in answers), "three models answered"
        for tenant, token in tokens.items():  # after the others': nothing of theirs is left in a cache
            assert told(gateway, token) == (names[tenant], found[tenant])
        assert told(gateway, tokens["acme"], model="discreet@base")[1] == found["base"]
