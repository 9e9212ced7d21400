"""`budget verify` over ledger, manifests and receipts together: what was published is what was charged and measured."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import replace

import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from personalization.planning import planner
from personalization.registry import queries as registry
from personalization.releases import protocol
from personalization.releases.terms import Terms
from personalization.training.jobs.receipt import Receipt, SignedReceipt
from privacy.ledger.chain import GENESIS_DIGEST, canonical, entry_digest
from privacy.ledger.export import export_ledger
from privacy.ledger.findings import FindingCode
from privacy.ledger.verify import verify_export
from streams.cli.main import app
from tests.fakes.training import Workshop


@pytest.fixture
def shop(engine, clock, tmp_path):
    shop = Workshop(engine, clock, tmp_path)
    shop.add_tenant()
    return shop


def published(shop, rounds=1):
    for _ in range(rounds):
        shop.open_round()
        shop.process().run_once()
    with shop.session() as session:
        return list(registry.manifest_documents(session))


def verified(shop, manifests=None, lines=None):
    with shop.session() as session:
        stored = list(registry.manifest_documents(session))
        names = registry.published_reservations(session)
    lines = list(export_ledger(shop.engine)) if lines is None else lines
    return verify_export(
        lines, manifests=stored if manifests is None else manifests, registered=lambda: names
    )


def test_honest_releases_verify_with_their_receipts(shop):
    published(shop, rounds=2)
    report = verified(shop)
    assert report.ok, report.findings
    assert (report.manifests, report.receipts, report.unbound) == (2, 2, 0)


def test_a_planner_that_ran_fifty_times_the_charged_steps_is_found_had_it_been_published(shop, monkeypatch):
    """The review's change, with the checks of ``finish`` taken out: an honest receipt still shows it."""
    propose, honest = planner.propose, Terms.mechanism.fget

    def fifty_fold(*args, **named):
        plan = propose(*args, **named)
        return plan.with_mechanism(steps=50 * plan.steps)

    monkeypatch.setattr(planner, "propose", fifty_fold)
    monkeypatch.setattr(
        Terms, "mechanism", property(lambda terms: replace(honest(terms), steps=honest(terms).steps // 50))
    )
    monkeypatch.setattr(protocol, "receipt_departure", lambda *_: None)
    (manifest,) = published(shop)
    assert manifest["privacy"]["steps"] == 4
    assert manifest["privacy"]["receipt"]["receipt"]["steps"] == 200
    report = verified(shop)
    assert [one.code for one in report.findings] == [FindingCode.RECEIPT]
    assert "measured" in report.findings[0].text


def changed(manifest, **facts):
    manifest = copy.deepcopy(manifest)
    manifest["privacy"].update(facts)
    return manifest


def receipt(manifest, key=None, **facts):
    """A manifest whose receipt says something else, signed anew where the key is known."""
    manifest = copy.deepcopy(manifest)
    document = manifest["privacy"]["receipt"]
    document["receipt"].update(facts)
    if key is not None:
        signed = SignedReceipt.of(Receipt.from_document(document["receipt"]), key)
        manifest["privacy"]["receipt"] = signed.to_document()
    return manifest


@pytest.mark.parametrize(
    "facts",
    [
        {"steps": 200}, {"noise_multiplier": 9.0}, {"sample_rate": 0.1}, {"clipping_norm": 7.0},
        {"contribution_bound": 99}, {"release_epsilon": 0.1}, {"cumulative_epsilon": 0.1}, {"delta": 1e-12},
        {"plan_digest": "sha256:" + "0" * 64}, {"ledger_entry_hash": "sha256:" + "0" * 64}, {"mechanism": "magic"},
        {"reservation_id": "unknown"}, {"receipt": None},
    ],
    ids=lambda facts: next(iter(facts)),
)  # fmt: skip
def test_a_manifest_that_says_something_else_than_the_ledger_is_found(shop, facts):
    (manifest,) = published(shop)
    report = verified(shop, [changed(manifest, **facts)])
    assert {one.code for one in report.findings} <= {FindingCode.MANIFEST, FindingCode.RECEIPT}
    assert not report.ok


def test_the_reviews_manifest_is_found(shop):
    """What the review published: 200 steps under the ε of the 4 that were charged."""
    (manifest,) = published(shop)
    report = verified(shop, [changed(manifest, steps=manifest["privacy"]["steps"] * 50)])
    assert any("steps is 200 in the manifest and 4 in the charge" in one.text for one in report.findings)


@pytest.mark.parametrize(
    "facts",
    [
        {"steps": 200},
        {"noise_ok": False},
        {"coins_ok": False},
        {"largest_norm_ok": False},
        {"distinct_steps_ok": False},
    ],
    ids=str,
)
def test_a_receipt_that_was_changed_or_signed_by_another_is_found(shop, facts):
    (manifest,) = published(shop)
    for forged in (receipt(manifest, **facts), receipt(manifest, key=bytes(32), **facts)):
        report = verified(shop, [forged])
        assert [one.code for one in report.findings] == [FindingCode.RECEIPT]
        assert "not signed" in report.findings[0].text


def test_two_versions_on_one_charge_and_a_charge_without_a_version_are_found(shop):
    (manifest,) = published(shop)
    assert any("one charge" in one.text for one in verified(shop, [manifest, manifest]).findings)
    report = verify_export(export_ledger(shop.engine), registered=frozenset)
    assert any("has no version" in one.text for one in report.findings)


def test_a_chain_that_was_rebuilt_is_shown_by_the_manifests(shop):
    """A writer of the database makes the charge cheaper and every digest after it anew: the chain itself is sound."""
    manifests = published(shop)
    lines, previous = [], GENESIS_DIGEST
    documents = [json.loads(line) for line in export_ledger(shop.engine)]
    for one in documents:
        if one["line"] == "entry":
            one["recorded_at"] = one["recorded_at"].replace("2026", "2025")
            one["previous_digest"] = previous
            fields = {name: value for name, value in one.items() if name not in {"line", "digest"}}
            one["digest"] = previous = entry_digest(**fields)
    for one in documents:
        if one["line"] == "tenant":
            one["head"]["digest"] = previous

    body = [canonical(one) for one in documents if one["line"] != "footer"]
    digest = hashlib.sha256("".join(line + "\n" for line in body).encode()).hexdigest()
    lines = [*body, canonical({"line": "footer", "lines": len(body), "digest": f"sha256:{digest}"})]
    assert verify_export(lines).ok, "nothing in the chain itself shows it"
    report = verify_export(lines, manifests=manifests)
    assert any("rebuilt" in one.text for one in report.findings)


def test_a_reservation_row_that_was_changed_is_a_finding(shop):
    manifests = published(shop)
    with shop.session() as session:
        session.execute(text("UPDATE ledger_reservation SET binding = NULL"))
    report = verified(shop, manifests)
    assert any("binding" in one.text for one in report.findings)


def test_the_command_reads_the_registry_or_files(shop, database_url, tmp_path, monkeypatch):
    manifests = published(shop, rounds=2)
    monkeypatch.setenv("DISCREET_DATABASE__URL", database_url)
    run = CliRunner()
    done = run.invoke(app, ["budget", "verify", "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert (report["ok"], report["manifests"], report["receipts"]) == (True, 2, 2)

    ledger, released = tmp_path / "ledger.jsonl", tmp_path / "manifests.jsonl"
    assert run.invoke(app, ["budget", "export", "--output", str(ledger)]).exit_code == 0
    released.write_text("\n".join(json.dumps(one) for one in manifests))
    for place in (released, shop.artifacts.root):
        done = run.invoke(app, ["budget", "verify", str(ledger), "--manifests", str(place), "--json"])
        assert json.loads(done.stdout)["receipts"] == 2, done.output
    released.write_text(json.dumps(changed(manifests[0], steps=200)))
    done = run.invoke(app, ["budget", "verify", str(ledger), "--manifests", str(released)])
    assert done.exit_code != 0
    assert "200 in the manifest" in done.output
    assert run.invoke(app, ["budget", "verify", "--manifests", str(tmp_path / "none")]).exit_code == 2
