"""Votes in the ledger: their delta is debited, refused, given back and verified; old accounts admit none."""

import json

import pytest
from sqlalchemy import text

from privacy.accounting.calibration import caps_of, release_mechanisms, style_vote_of
from privacy.accounting.composition import delta_units
from privacy.accounting.curve import DELTA_UNITS
from privacy.accounting.filters import AccountSettings, PrivacyFilter
from privacy.errors import BudgetExhaustedError
from privacy.guarantee import FLEET
from privacy.ledger import BudgetCaps, Ledger, ReservationRequest
from privacy.ledger.accounts import curve_in, filter_of, lifetime_account_id
from privacy.ledger.chain import digest_of
from privacy.ledger.export import export_ledger
from privacy.ledger.findings import FindingCode
from privacy.ledger.populations import population_of
from privacy.ledger.spending import spent_budget, within_accounts
from privacy.ledger.tables import AccountRow
from privacy.ledger.verify import verify_export
from privacy.mechanisms.partition_selection import PartitionSelection
from privacy.mechanisms.private_read import ReadPurpose
from privacy.mechanisms.tenant_gaussian import TenantGaussian
from privacy.policy.values import TenantPrivacyPolicy, amended
from privacy.storage.session import transaction
from tests.integration.privacy.ledger.test_verify import changed_document, codes, entries, parsed, sealed

CAPS = BudgetCaps(period_epsilon=4.0, period_delta=1e-6, lifetime_epsilon=8.0, lifetime_delta=1e-6)
VOTE = PartitionSelection(noise_multiplier=30.0, delta=6e-8, unknown_keys=4)
POLICY = TenantPrivacyPolicy(declared_users=2000, planned_releases=12, lifetime_epsilon=4.0)


def request(key, mechanisms=(VOTE,), *, caps=CAPS, period=0, tenant="acme", population=None):
    return ReservationRequest(
        tenant_id=tenant,
        policy_version=1,
        period_index=period,
        purpose=ReadPurpose.TRAINING,
        mechanisms=mechanisms,
        idempotency_key=key,
        epoch=1,
        caps=caps,
        population=population,
    )


@pytest.fixture
def ledger(clock):
    return Ledger(clock)


def reserve(engine, ledger, key, *args, **named):
    with transaction(engine) as session:
        return ledger.reserve(session, request(key, *args, **named))


def lifetime(engine, tenant="acme"):
    with transaction(engine) as session:
        row = session.get(AccountRow, lifetime_account_id(tenant))
        return filter_of(row), curve_in(row)


def old_ledger(clock):
    """A ledger as before there were selections."""
    return Ledger(clock, AccountSettings(selection_share=0.0))


def test_votes_are_admitted_until_their_share_of_delta_is_used_and_no_further(engine, ledger):
    for number in range(3):
        reserve(engine, ledger, f"vote-{number}", period=number)
    with pytest.raises(
        BudgetExhaustedError, match=r"asks for delta 6e-08 .* 1\.8e-07 is spent and 2e-07 is kept"
    ):
        reserve(engine, ledger, "vote-3", period=3)
    opened, spent = lifetime(engine)
    assert spent.delta == 3 * delta_units(VOTE.delta)
    assert opened.used_fraction(spent) == pytest.approx(0.9)
    with transaction(engine) as session:
        view = ledger.spend(session, "acme", 0)
    assert view.selection_delta == pytest.approx(1.8e-7)
    assert view.selection_cap == pytest.approx(2e-7)
    report = verify_export(export_ledger(engine), with_pld=True)
    assert report.findings == []
    assert max(one["selection_delta"] for one in report.accounts) == pytest.approx(1.8e-7)


def test_what_never_started_gives_its_delta_back(engine, ledger):
    reserve(engine, ledger, "kept")
    before = lifetime(engine)
    held = reserve(engine, ledger, "held")
    assert lifetime(engine)[1].delta == 2 * before[1].delta
    with transaction(engine) as session:
        ledger.release(session, held.reservation_id, 1)
    assert lifetime(engine) == before
    assert verify_export(export_ledger(engine)).findings == []


def test_a_lower_delta_of_the_policy_narrows_what_is_kept_for_votes(engine, ledger):
    reserve(engine, ledger, "one")
    strict = BudgetCaps(period_epsilon=4.0, period_delta=5e-7, lifetime_epsilon=8.0, lifetime_delta=5e-7)
    with pytest.raises(BudgetExhaustedError, match="asks for delta"):
        reserve(engine, ledger, "two", caps=strict, period=1)
    reserve(engine, ledger, "two", period=1)


def test_a_filter_that_ignores_the_delta_is_caught_by_the_verifier(engine, ledger, monkeypatch):
    honest = PrivacyFilter.admits

    def blind(self, spent, asked):
        return honest(self, type(spent)(spent.values), type(asked)(asked.values))

    with monkeypatch.context() as planted:
        planted.setattr(PrivacyFilter, "admits", blind)
        for number in range(20):
            reserve(engine, ledger, f"vote-{number}", period=number)
    report = verify_export(export_ledger(engine), with_pld=True)
    assert {one.code for one in report.findings} == {FindingCode.OVERSPEND}
    assert len(report.findings) == 17  # each after the third
    (life,) = (one for one in report.accounts if one["account_id"] == "lifetime:acme")
    assert life["epsilon"] is life["pld_epsilon"] is None  # no epsilon holds at this delta
    assert json.dumps(report.to_document(), allow_nan=False)


def forgotten_delta(documents):
    for entry in entries(documents, "reserved"):
        changed_document(entry, lambda inner: inner["curve"].pop("selection_delta"))


def smaller_delta(documents):
    for entry in entries(documents, "reserved"):
        changed_document(entry, lambda inner: inner["mechanisms"][0].update(delta=6e-9))


def larger_share(documents):
    for one in documents:
        if one["line"] == "account":
            one["selection_share"] = 0.4


@pytest.mark.parametrize(
    ("attack", "found"),
    [
        (forgotten_delta, FindingCode.CURVE),
        (smaller_delta, FindingCode.CURVE),
        (larger_share, FindingCode.ROW),
    ],
)
def test_a_changed_delta_is_found_though_all_digests_are_recomputed(engine, ledger, attack, found):
    reserve(engine, ledger, "one")
    documents = parsed(list(export_ledger(engine)))
    attack(documents)
    assert found in codes(sealed(documents))


def test_accounts_from_before_admit_no_vote_and_a_release_goes_without(engine, clock, ledger):
    old = old_ledger(clock)
    without = POLICY.model_copy(update={"styles": False})
    reserve(engine, old, "old", release_mechanisms(without, 9.0), caps=caps_of(POLICY))
    with engine.begin() as connection:  # as the migration leaves what is from before
        connection.execute(text("UPDATE ledger_account SET selection_share = 0"))
    with pytest.raises(BudgetExhaustedError, match="0 is kept"):
        reserve(engine, ledger, "vote", release_mechanisms(POLICY, 9.0), caps=caps_of(POLICY), period=1)
    with transaction(engine) as session:
        changed = within_accounts(session, "acme", 1, POLICY)
        assert within_accounts(session, "acme", 1, without) is without
        assert within_accounts(session, "nobody", 0, POLICY) is POLICY
    assert changed == without
    reserve(engine, ledger, "plain", release_mechanisms(changed, 9.0), caps=caps_of(changed), period=1)
    assert verify_export(export_ledger(engine)).findings == []


def test_entries_from_before_name_no_share_and_verify(engine, clock):
    reserve(engine, old_ledger(clock), "old", release_mechanisms(amended(POLICY, {"styles": False}), 9.0))
    documents = parsed(list(export_ledger(engine)))
    for entry in entries(documents, "account_opened"):
        changed_document(entry, lambda inner: inner["account"].pop("selection_share"))
    for one in documents:
        one.pop("selection_share", None)
    # an entry's place is over its content, so the chain was rebuilt; nothing else is missed
    assert codes(sealed(documents)) == set()


def test_a_curve_without_votes_has_the_document_and_digest_it_always_had(engine, ledger):
    held = reserve(engine, ledger, "plain", release_mechanisms(amended(POLICY, {"styles": False}), 9.0))
    _, spent = lifetime(engine)
    assert set(spent.to_document()) == {"grid", "pico_nats"}
    documents = parsed(list(export_ledger(engine)))
    (entry,) = entries(documents, "reserved")
    inner = json.loads(entry["document"])
    assert entry["reservation_id"] == held.reservation_id
    assert inner["curve_digests"]["lifetime:acme"] == digest_of(
        {"grid": "grid-v1", "pico_nats": list(spent.values)}
    )


def test_a_policy_goes_without_votes_once_they_are_used_up(engine, ledger):
    vote = style_vote_of(POLICY)
    for number in range(POLICY.planned_releases):
        with transaction(engine) as session:
            assert within_accounts(session, "acme", number, POLICY).styles
        reserve(engine, ledger, f"vote-{number}", (vote,), caps=caps_of(POLICY), period=number)
    with transaction(engine) as session:
        assert not within_accounts(session, "acme", 99, POLICY).styles
        assert spent_budget(session, "acme", 0).lifetime_curve.delta <= 0.2e-6 * DELTA_UNITS


def test_a_population_s_votes_count_for_each_of_its_tenants(engine, ledger):
    linked = amended(POLICY, {"population": "staff", "planned_releases": 1})
    vote = style_vote_of(linked)
    reserve(engine, ledger, "a", (vote,), caps=caps_of(linked), population=population_of(linked))
    with transaction(engine) as session:
        assert within_accounts(session, "zenith", 0, amended(linked, {"population": ""})).styles
        assert not within_accounts(session, "zenith", 0, linked).styles
    with pytest.raises(BudgetExhaustedError, match="asks for delta"):
        reserve(
            engine,
            ledger,
            "b",
            (vote,),
            caps=caps_of(linked),
            population=population_of(linked),
            tenant="zenith",
        )


def test_the_fleet_s_accounts_keep_nothing_for_votes(engine, ledger):
    reserve(engine, ledger, "fleet", (TenantGaussian(noise_multiplier=9.0, clipping_norm=1.0),), tenant=FLEET)
    assert lifetime(engine, FLEET)[0].selection_share == 0
