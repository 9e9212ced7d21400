"""The right line for each request of a labelled set, the base when nothing fits, and nobody else's line ever."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from personalization.memory.embedding import bundled, bundled_embedder
from streams.client.errors import PrototypeError
from streams.client.routing.features import BUCKETS, FEATURES_VERSION, MOST_BYTES, features_of
from streams.client.routing.prototypes import prototype_of
from streams.client.routing.router import Level, RouteLine, Router, RouteReason, RouterSettings

ROWS = [
    json.loads(line)
    for line in (Path(__file__).parents[4] / "data" / "routing.jsonl").read_text("utf-8").splitlines()
]
HARD = [
    json.loads(line)
    for line in (Path(__file__).parents[4] / "data" / "routing_hard.jsonl").read_text("utf-8").splitlines()
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


class Compass:
    """An encoder that knows two subjects, and reads nothing of words that are in a prototype."""

    name = "compass"

    def __init__(self):
        self.read = []

    def embed(self, texts):
        self.read += texts
        angles = [0.0 if "lease" in text else np.pi / 2 if "invoice" in text else np.pi / 4 for text in texts]
        return np.array([[np.cos(angle), np.sin(angle)] for angle in angles], np.float32)


def test_meaning_decides_where_words_are_not_sure_and_says_so():
    compass = Compass()
    router = Router()
    for name, word in (("legal", "lease"), ("finance", "invoice")):
        prototype = prototype_of([f"{word} number {n}" for n in range(4)], compass)
        line_of = RouteLine(
            tenant_id="acme",
            line_ref=f"l-{name}",
            served_name=f"a-{name}-v1",
            level=Level.DOMAIN,
            prototype=prototype,
        )
        router.put(line_of)
    assert router.unsure("acme", "zzz qqq")
    assert not router.unsure("acme", "lease number 2")
    east, north = compass.embed(["lease", "invoice"])
    by_words = router.decide("acme", "lease number 2", meaning=north)
    assert (by_words.line_ref, by_words.features_version) == ("l-legal", FEATURES_VERSION)
    by_meaning = router.decide("acme", "zzz qqq", meaning=north)
    assert (by_meaning.line_ref, by_meaning.features_version) == ("l-finance", "compass")
    assert router.decide("acme", "zzz qqq").reason is RouteReason.BELOW_FLOOR
    between = compass.embed(["neither"])[0]
    assert router.decide("acme", "zzz qqq", meaning=between).level is Level.BASE
    router.put(line("operations"))  # it is known by words alone, so meanings cannot be compared
    assert not router.unsure("acme", "zzz qqq")
    assert router.decide("acme", "zzz qqq", meaning=east).features_version == FEATURES_VERSION


def test_a_line_that_fits_and_is_not_loaded_is_wanted_and_what_is_below_answers(router):
    prompt = "Draft a clause for the contract."
    route = router.decide("acme", prompt, loaded={"a-legal-v1": False})
    assert (route.level, route.reason, route.wanted) == (Level.BASE, RouteReason.NOT_LOADED, "a-legal-v1")
    assert route.candidates[0].line_ref == "l-legal"
    assert router.decide("acme", prompt, loaded={"a-finance-v1": False}).line_ref == "l-legal"
    away = router.decide("acme", "How do I bake bread without yeast?", loaded={"a-legal-v1": False})
    assert away.wanted is None


def test_a_pair_answers_what_both_of_its_lines_fit_alike_and_nothing_else():
    router = Router(RouterSettings(floor=0.0, margin=0.05))
    router.put(line("legal"))
    router.put(line("again", prompts=known("legal")))
    router.put(line("finance"))
    both = frozenset({"l-legal", "l-again"})
    pair = RouteLine(tenant_id="acme", line_ref="l-both", served_name="a-both-v1", level=Level.PAIR, of=both)
    router.put(pair)
    route = router.decide("acme", "Draft a clause for the contract.")
    assert (route.level, route.line_ref, route.reason) == (Level.PAIR, "l-both", RouteReason.BOTH_FIT)
    away = router.decide("acme", "Draft a clause for the contract.", loaded={"a-both-v1": False})
    assert (away.level, away.reason, away.wanted) == (Level.BASE, RouteReason.NOT_LOADED, "a-both-v1")
    assert router.decide("acme", "Which invoices are overdue?").line_ref == "l-finance"
    router.drop("acme", "l-both")
    assert router.decide("acme", "Draft a clause for the contract.").reason is RouteReason.TOO_CLOSE
    with pytest.raises(ValueError, match="composed of two"):
        RouteLine(
            tenant_id="acme", line_ref="x", served_name="x", level=Level.PAIR, of=frozenset({"l-legal"})
        )


@pytest.mark.skipif(not bundled(), reason="needs discreet[memory]")
def test_paraphrases_without_shared_words_are_found_by_meaning():
    """Every third prompt of the half that nothing was chosen on; the whole half is in the benchmark."""
    encoder = bundled_embedder()
    router = Router()
    for name in DOMAINS:
        router.put(replace(line(name), prototype=prototype_of(known(name), encoder)))
    asked = [row for row in HARD if row["half"] == "held_out"][::3]
    meanings = encoder.embed([row["prompt"] for row in asked])
    words, meant = (
        sum(
            (route.line_ref is None and (not row["domains"] or row["kind"] == "mixed"))
            or route.line_ref in {f"l-{name}" for name in row["domains"]}
            for row, route in zip(
                asked,
                router.decide_many([("acme", row["prompt"]) for row in asked], meanings=given),
                strict=True,
            )
        )
        / len(asked)
        for given in (None, meanings)
    )
    assert words <= 0.6
    assert meant >= 0.8


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
