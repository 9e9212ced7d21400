"""Whoever changes a ledger, even with all digests recomputed, is found by the offline verifier."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import pytest

from privacy.accounting.composition import curve_of
from privacy.accounting.curve import RdpCurve
from privacy.accounting.filters import UNION_GRID, FilterRule, PrivacyFilter
from privacy.errors import UnknownTenantError
from privacy.ledger import BudgetCaps, DrawRecord, Ledger, PopulationCap, ReservationRequest, verify
from privacy.ledger.chain import GENESIS_DIGEST, canonical, digest_of, entry_digest
from privacy.ledger.export import export_ledger
from privacy.ledger.findings import FindingCode
from privacy.ledger.recompute import ReplayedAccount
from privacy.ledger.values import AccountScope
from privacy.ledger.verify import verify_export
from privacy.mechanisms.exponential_choice import ExponentialChoice
from privacy.mechanisms.gaussian import Gaussian
from privacy.mechanisms.private_read import ReadPurpose
from privacy.mechanisms.sampled_gaussian import PoissonSampledGaussian
from privacy.storage.session import transaction

CAPS = BudgetCaps(period_epsilon=2.0, period_delta=1e-6, lifetime_epsilon=4.0, lifetime_delta=1e-6)
ROUND = (
    Gaussian(sensitivity=1.0, standard_deviation=20.0, purpose=ReadPurpose.COHORT_COUNT),
    PoissonSampledGaussian(noise_multiplier=10.0, sample_rate=0.2, steps=60),
)
HASHED = ("tenant_id", "sequence", "kind", "recorded_at", "reservation_id", "document", "previous_digest")


def request(key, population=None, tenant="acme"):
    return ReservationRequest(
        tenant_id=tenant,
        policy_version=1,
        period_index=0,
        purpose=ReadPurpose.TRAINING,
        mechanisms=ROUND,
        idempotency_key=key,
        epoch=1,
        caps=CAPS,
        population=population,
    )


@pytest.fixture
def ledger_lines(engine, clock):
    """A ledger with a committed, a forfeited, a released and a held reservation."""
    ledger = Ledger(clock)
    with transaction(engine) as session:
        ids = [ledger.reserve(session, request(key)).reservation_id for key in ("a", "b", "c", "d")]
        for number in (0, 1):
            ledger.start(session, ids[number], 1)
        draw = DrawRecord(seed_commitment="sha256:s", data_digest="sha256:d", code_digest="sha256:c")
        ledger.record_draw(session, ids[0], 1, draw)
        ledger.commit(session, ids[0], 1, "sha256:artifact")
        ledger.forfeit(session, ids[1], 1, "crash")
        ledger.release(session, ids[2], 1)
    return list(export_ledger(engine))


def sealed(documents):
    """An attacker's best: rebuild every chain, head and footer over changed entries."""
    digest, sequence, tenant = GENESIS_DIGEST, 0, None
    for document in documents:
        if document["line"] == "tenant":
            digest, sequence, tenant = GENESIS_DIGEST, 0, document
        if document["line"] == "entry":
            sequence += 1
            document["sequence"], document["previous_digest"] = sequence, digest
            digest = document["digest"] = entry_digest(**{name: document[name] for name in HASHED})
            tenant["head"] = {"sequence": sequence, "digest": digest}
    lines = [canonical(document) for document in documents]
    body = "".join(line + "\n" for line in lines)
    footer = {
        "line": "footer",
        "lines": len(lines),
        "digest": "sha256:" + hashlib.sha256(body.encode()).hexdigest(),
    }
    return [*lines, canonical(footer)]


def parsed(lines):
    return [json.loads(line) for line in lines[:-1]]


def changed_document(document, change):
    inner = json.loads(document["document"])
    change(inner)
    document["document"] = canonical(inner)


def codes(lines, **options):
    return {finding.code for finding in verify_export(lines, **options).findings}


def entries(documents, kind):
    return [one for one in documents if one["line"] == "entry" and one["kind"] == kind]


def test_an_honest_ledger_verifies_with_pld_too(ledger_lines):
    report = verify_export(ledger_lines, with_pld=True)
    assert report.ok
    assert (report.tenants, report.reservations, report.mechanisms) == (1, 4, 6)
    lifetime = next(one for one in report.accounts if one["account_id"] == "lifetime:acme")
    assert 0 < lifetime["pld_epsilon"] <= lifetime["epsilon"] < 4.0
    assert sealed(parsed(ledger_lines)) == ledger_lines  # the attacker's tool itself changes nothing


def test_a_choice_hides_no_undercharge_of_what_is_known_exactly():
    """The planted fault: an account has the curve of fewer trained releases than it was charged for."""
    training, choice = ROUND[1], ExponentialChoice(epsilon=0.05, candidates=3)
    limit = PrivacyFilter(epsilon=4.0, delta=1e-6, rule=FilterRule.GRID_UNION, orders=UNION_GRID)
    for counted, codes_found in ((8, []), (2, [FindingCode.SECOND_OPINION])):
        account = ReplayedAccount(
            account_id="lifetime:acme",
            scope=AccountScope.LIFETIME,
            filter=limit,
            opened={},
            curve=curve_of(training) * counted + curve_of(choice),
            mechanisms=Counter({training: 8, choice: 1}),
        )
        report = verify.VerificationReport()
        figures = verify._account_figures(account, with_pld=True, report=report)
        assert [one.code for one in report.findings] == codes_found
        assert not figures["pld_exact"]


def test_a_cut_or_damaged_file_is_found(ledger_lines):
    assert codes(ledger_lines[:-1]) == {FindingCode.EXPORT}
    assert FindingCode.EXPORT in codes(ledger_lines[:5] + ledger_lines[6:])
    assert FindingCode.EXPORT in codes([*ledger_lines, ledger_lines[-1]])
    assert FindingCode.EXPORT in codes(["not json", *ledger_lines])
    assert FindingCode.EXPORT in codes([])


def test_a_changed_entry_breaks_the_chain(ledger_lines):
    documents = parsed(ledger_lines)
    entry = entries(documents, "committed")[0]
    entry["recorded_at"] = "2020-01-01T00:00:00.000000+00:00"
    lines = [canonical(document) for document in documents]
    assert FindingCode.CHAIN in codes(lines)


def test_a_removed_entry_is_a_gap(ledger_lines):
    documents = parsed(ledger_lines)
    documents.remove(entries(documents, "forfeited")[0])
    assert {FindingCode.GAP, FindingCode.CHAIN} <= codes([canonical(document) for document in documents])


def test_a_rewritten_tail_is_found_by_a_published_digest(ledger_lines):
    documents = parsed(ledger_lines)
    published = entries(documents, "committed")[0]["digest"]
    assert codes(ledger_lines, expected_heads={"acme": published}) == set()
    entries(documents, "committed")[0]["recorded_at"] = "2020-01-01T00:00:00.000000+00:00"
    rewritten = sealed(documents)
    assert FindingCode.HEAD in codes(rewritten, expected_heads={"acme": published})


def lower_noise_reported(documents):
    """Claim more noise than there was, with the lower cost that goes with it, but keep the accounts."""
    for entry in entries(documents, "reserved")[:1]:
        changed_document(entry, lambda inner: inner["mechanisms"][1].update(noise_multiplier=20.0))


def free_reservation(documents):
    for entry in entries(documents, "reserved")[:1]:
        changed_document(entry, lambda inner: inner.update(curve=RdpCurve.zero().to_document()))


def unknown_mechanism(documents):
    for entry in entries(documents, "reserved")[:1]:
        changed_document(entry, lambda inner: inner["mechanisms"][0].update(type="laplace"))


def released_after_start(documents):
    started = entries(documents, "started")[1]
    released = entries(documents, "released")[0]
    released["reservation_id"] = started["reservation_id"]


def more_given_back(documents):
    double = (
        RdpCurve.from_document(json.loads(entries(documents, "released")[0]["document"])["curve"]) * 2
    ).to_document()
    changed_document(entries(documents, "released")[0], lambda inner: inner.update(curve=double))


def second_draw(documents):
    drawn = entries(documents, "drawn")[0]
    again = json.loads(canonical(drawn))
    changed_document(again, lambda inner: inner.update(seed_commitment="sha256:second"))
    documents.insert(documents.index(drawn) + 1, again)


def unpaid_look(documents):
    drawn = entries(documents, "drawn")[0]
    look = json.loads(canonical(drawn)) | {"kind": "looked", "document": canonical({"epoch": 1, "look": 0})}
    documents.insert(documents.index(drawn) + 1, look)


def lower_epoch(documents):
    changed_document(entries(documents, "started")[0], lambda inner: inner.update(epoch=7))


def smaller_cap(documents):
    for entry in entries(documents, "account_opened"):
        changed_document(entry, lambda inner: inner["account"].update(epsilon=0.8))


def account_row_lowered(documents):
    row = next(one for one in documents if one["line"] == "account" and one["scope"] == "lifetime")
    row["curve"] = RdpCurve.zero().to_document()


def reservation_row_released(documents):
    row = next(one for one in documents if one["line"] == "reservation" and one["state"] == "forfeited")
    row["state"] = "released"


def missing_row(documents):
    documents.remove(next(one for one in documents if one["line"] == "reservation"))


def charged_to_nobody(documents):
    for entry in entries(documents, "reserved")[:1]:
        changed_document(entry, lambda inner: inner.update(accounts=["lifetime:acme"]))


@pytest.mark.parametrize(
    ("attack", "found"),
    [
        (lower_noise_reported, FindingCode.CURVE),
        (free_reservation, FindingCode.CURVE),
        (unknown_mechanism, FindingCode.UNKNOWN_EVENT),
        (released_after_start, FindingCode.LIFECYCLE),
        (more_given_back, FindingCode.CURVE),
        (second_draw, FindingCode.LIFECYCLE),
        (unpaid_look, FindingCode.LIFECYCLE),
        (lower_epoch, FindingCode.FENCING),
        (smaller_cap, FindingCode.OVERSPEND),
        (account_row_lowered, FindingCode.ROW),
        (reservation_row_released, FindingCode.ROW),
        (missing_row, FindingCode.ROW),
        (charged_to_nobody, FindingCode.LIFECYCLE),
    ],
)
def test_an_attack_with_recomputed_digests_is_found(ledger_lines, attack, found):
    documents = parsed(ledger_lines)
    attack(documents)
    lines = sealed(documents)
    assert found in codes(lines)
    assert FindingCode.CHAIN not in codes(lines)  # the chain alone would not have told


def test_linked_tenants_are_summed_over_all_exports(engine, clock):
    ledger, shared = Ledger(clock), PopulationCap(population_id="staff", epsilon=3.0, delta=1e-6)
    with transaction(engine) as session:
        for tenant in ("acme", "zenith"):
            ledger.reserve(session, request("a", shared, tenant))
        held = ledger.reserve(session, request("b", shared, "zenith"))
        ledger.release(session, held.reservation_id, 1)
    lines = list(export_ledger(engine))
    assert codes(lines) == set()
    assert (
        codes(list(export_ledger(engine, ["acme"]))) == set()
    )  # the others are not in the file: nothing to sum
    documents = parsed(lines)
    row = next(one for one in documents if one["line"] == "population")
    row["curve"] = RdpCurve.zero().to_document()
    assert codes(sealed(documents)) == {FindingCode.ROW}


def test_an_export_holds_one_tenant_or_all_and_is_a_plain_file(engine, clock, ledger_lines, tmp_path):
    with transaction(engine) as session:
        Ledger(clock).reserve(session, request("other", tenant="zenith"))
    one = list(export_ledger(engine, ["zenith"]))
    assert not any("acme" in line for line in one)
    assert codes(one) == set()
    path = Path(tmp_path) / "ledger.jsonl"
    path.write_text("\n".join(ledger_lines) + "\n", encoding="utf-8")
    with path.open(encoding="utf-8") as lines:
        assert verify_export(lines).ok
    with pytest.raises(UnknownTenantError, match="nobody"):
        list(export_ledger(engine, ["nobody"]))


def test_the_digest_is_over_the_canonical_bytes():
    fields = dict.fromkeys(HASHED, "x") | {"sequence": 1, "reservation_id": None}
    assert entry_digest(**fields) == digest_of([fields[name] for name in HASHED])
    assert digest_of({"b": 1, "a": "ε"}) == digest_of({"a": "ε", "b": 1})
    with pytest.raises(ValueError, match="JSON"):
        digest_of(float("nan"))
