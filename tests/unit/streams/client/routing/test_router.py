"""The right line for each request of a labelled set, the base when nothing fits, and nobody else's line ever."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from streams.client.errors import PrototypeError
from streams.client.routing.features import BUCKETS, MOST_BYTES, features_of
from streams.client.routing.prototypes import prototype_of
from streams.client.routing.router import Level, RouteLine, Router, RouteReason, RouterSettings

ROWS = [
    json.loads(line)
    for line in (Path(__file__).parents[4] / "data" / "routing.jsonl").read_text("utf-8").splitlines()
]
DOMAINS = ("legal", "finance", "operations")
ASKED = [row for row in ROWS if row["part"] == "asked"]


def known(domain):
    return [row["prompt"] for row in ROWS if row["domain"] == domain and row["part"] == "known"]


def line(name, *, level=Level.DOMAIN, tenant="acme", prompts=None):
    prototype = prototype_of(prompts or known(name)) if level is Level.DOMAIN else None
    return RouteLine(
        tenant_id=tenant, line_ref=f"l-{name}", served_name=f"a-{name}-v1", level=level, prototype=prototype
    )


@pytest.fixture(scope="module")
def router():
    router = Router()
    for name in DOMAINS:
        router.put(line(name))
    return router


def test_nineteen_of_twenty_requests_get_their_line_and_what_fits_none_gets_the_base(router):
    inside = [row for row in ASKED if row["domain"] is not None]
    outside = [row for row in ASKED if row["domain"] is None]
    right = [router.decide("acme", row["prompt"]).line_ref == f"l-{row['domain']}" for row in inside]
    left = [router.decide("acme", row["prompt"]).level is Level.BASE for row in outside]
    assert sum(right) / len(right) >= 0.95
    assert sum(left) / len(left) >= 0.95


def test_a_decision_explains_itself_without_the_prompt(router):
    prompt = "Which court has jurisdiction over the dispute about this lease?"
    route = router.decide("acme", prompt)
    assert (route.level, route.reason) == (Level.DOMAIN, RouteReason.FITS)
    assert route.score == route.candidates[0].score > 0.2
    assert route.margin == pytest.approx(route.candidates[0].score - route.candidates[1].score)
    assert {one.prototype_version[:7] for one in route.candidates} == {"sha256:"}
    told = json.dumps(route._asdict())
    assert not any(word in told for word in ("court", "jurisdiction", "dispute"))


def test_what_no_domain_line_is_about_goes_down_the_hierarchy():
    router = Router()
    router.put(line("legal"))
    away = "How do I bake bread without yeast?"
    assert router.decide("acme", away).level is Level.BASE
    router.put(line("meta", level=Level.META))
    assert router.decide("acme", away).level is Level.META
    router.put(line("own", level=Level.TENANT))
    route = router.decide("acme", away)
    assert (route.level, route.served_name) == (Level.TENANT, "a-own-v1")
    assert route.reason is RouteReason.BELOW_FLOOR
    assert router.decide("acme", "Review the clause of the contract.").level is Level.DOMAIN
    paused = router.decide("acme", away, usable={"a-own-v1": False})
    assert paused.level is Level.BASE


def test_two_lines_about_the_same_are_too_close():
    router = Router(RouterSettings(floor=0.0, margin=0.05))
    router.put(line("legal"))
    router.put(line("again", prompts=known("legal")))
    route = router.decide("acme", "Draft a clause for the contract.")
    assert (route.level, route.reason, route.margin) == (Level.BASE, RouteReason.TOO_CLOSE, 0.0)


def test_a_line_that_may_not_serve_is_not_chosen_and_one_that_is_dropped_is_forgotten():
    router = Router()
    router.put(line("legal"))
    prompt = "Draft a clause for the contract."
    assert router.decide("acme", prompt, usable={"a-legal-v1": False}).reason is RouteReason.NO_DOMAIN_LINE
    router.drop("acme", "l-legal")
    router.drop("acme", "l-unknown")
    assert router.decide("acme", prompt).reason is RouteReason.NO_DOMAIN_LINE


def test_another_tenants_line_is_never_looked_at():
    router = Router()
    router.put(line("legal", tenant="other"))
    route = router.decide("acme", "Draft a clause for the contract.")
    assert (route.level, route.candidates) == (Level.BASE, ())


def test_a_batch_decides_as_each_alone(router):
    asked = [("acme" if n % 3 else "nobody", row["prompt"]) for n, row in enumerate(ASKED)] + [("acme", "?!")]
    assert router.decide_many(asked) == [router.decide(*one) for one in asked]


def test_prompts_are_read_alike_alone_and_in_a_batch_and_texts_without_letters_have_no_features():
    texts = ["Draft the  lease", "", "é" * 10, "...", "a", "x" * (2 * MOST_BYTES)]
    together = features_of(texts)
    assert together.counts[[1, 3]].tolist() == [0, 0]
    ends = np.cumsum(together.counts)
    for number, text in enumerate(texts):
        alone = features_of([text]).buckets
        assert (
            alone.tolist() == together.buckets[ends[number] - together.counts[number] : ends[number]].tolist()
        )
    assert together.buckets.max() < BUCKETS
    assert features_of(["Lease DRAFT"]).counts.tolist() == features_of(["lease draft"]).counts.tolist()


def test_a_prototype_needs_prompts_and_its_version_tells_none():
    with pytest.raises(PrototypeError, match="at least 3"):
        prototype_of(["one", "one ", "two"])
    with pytest.raises(PrototypeError, match="no letter"):
        prototype_of(["?", "!", "."])
    one, two = prototype_of(known("legal")), prototype_of(known("finance"))
    assert one.version != two.version
    assert one.version == prototype_of(known("legal")[::-1]).version


def test_replacing_a_tenants_lines_forgets_the_others():
    router = Router()
    router.put(line("legal"))
    assert router.knows("acme")
    router.replace("acme", [line("finance")])
    asked = router.decide("acme", "Draft a clause for the contract.")
    assert [one.line_ref for one in asked.candidates] == ["l-finance"]
    router.replace("acme", [])
    assert not router.knows("acme")


def test_the_base_is_no_line_and_only_domain_lines_have_prototypes():
    for level, prototype in (
        (Level.BASE, None),
        (Level.DOMAIN, None),
        (Level.TENANT, prototype_of(known("legal"))),
    ):
        with pytest.raises(ValueError, match="a domain line has a prototype"):
            RouteLine(tenant_id="t", line_ref="l", served_name="a", level=level, prototype=prototype)
