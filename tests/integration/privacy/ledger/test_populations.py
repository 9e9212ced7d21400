"""The same people under several tenant names have one lifetime budget, whoever declares or leaves what, and when."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from privacy.accounting.calibration import caps_of
from privacy.accounting.composition import total_curve
from privacy.accounting.curve import RdpCurve
from privacy.errors import BudgetExhaustedError
from privacy.ledger import Ledger, ReservationRequest
from privacy.ledger.chain import canonical
from privacy.ledger.export import export_ledger
from privacy.ledger.findings import FindingCode
from privacy.ledger.populations import join_declared, memberships, population_of, set_policy
from privacy.ledger.tables import AccountRow
from privacy.ledger.verify import verify_export
from privacy.mechanisms.private_read import ReadPurpose
from privacy.mechanisms.sampled_gaussian import PoissonSampledGaussian
from privacy.policy import versions as policies
from privacy.storage.session import transaction
from tests.integration.privacy.ledger.test_verify import parsed, sealed

ROUND = (PoissonSampledGaussian(noise_multiplier=10.0, sample_rate=0.2, steps=60),)
POLICY = {"declared_users": 500, "period_epsilon": 4.0, "lifetime_epsilon": 4.0}


class People:
    """Tenants with policies, one ledger, and rounds that each take a period of their own."""

    def __init__(self, engine, clock):
        self.engine, self.clock, self.ledger = engine, clock, Ledger(clock)
        self.rounds = 0

    def tenant(self, name, **changes):
        with transaction(self.engine) as session:
            policies.register_tenant(session, name, actor="ann", now=self.clock())
        self.set(name, **POLICY, **changes)

    def set(self, name, **changes):
        with transaction(self.engine) as session:
            set_policy(session, name, changes, actor="ann", reason="why", now=self.clock())

    def run(self, name):
        """Reserve one round as a trainer does; return whether it was admitted."""
        self.rounds += 1
        with transaction(self.engine) as session:
            policy = policies.current_policy(session, name).policy
            join_declared(session, name, now=self.clock())
            request = ReservationRequest(
                tenant_id=name,
                policy_version=1,
                period_index=self.rounds,
                purpose=ReadPurpose.TRAINING,
                mechanisms=ROUND,
                idempotency_key=f"round-{self.rounds}",
                epoch=1,
                caps=caps_of(policy),
                population=population_of(policy),
            )
            try:
                with session.begin_nested():
                    reservation = self.ledger.reserve(session, request)
            except BudgetExhaustedError:
                return None
        return reservation.reservation_id

    def fill(self, name, most=500):
        count = 0
        while count < most and self.run(name):
            count += 1
        return count

    def population(self, name="staff"):
        with transaction(self.engine) as session:
            row = session.get(AccountRow, f"population:{name}")
            return RdpCurve.from_document(json.loads(row.curve))

    def findings(self):
        return verify_export(export_ledger(self.engine)).findings


@pytest.fixture
def people(engine, clock):
    return People(engine, clock)


@pytest.fixture
def alone(people):
    """How many rounds one tenant of these caps has alone."""
    people.tenant("alone")
    return people.fill("alone")


def test_two_tenants_of_one_population_cannot_spend_more_than_one_cap(people, alone):
    for name in ("acme", "beta"):
        people.tenant(name, population="staff")
    assert people.fill("acme", most=alone // 2) + people.fill("beta") == alone
    assert people.run("acme") is None
    assert people.findings() == []


def test_a_cap_of_a_population_never_rises_and_a_members_lower_cap_narrows_it(people, alone):
    people.tenant("acme", population="staff")
    people.tenant("beta", population="staff")
    people.set("beta", lifetime_epsilon=32.0)
    assert people.fill("acme") == alone
    assert people.run("beta") is None  # its higher cap raises nothing
    people.tenant("gamma", population="wide")
    people.set("gamma", lifetime_epsilon=5.0)
    people.tenant("delta", population="wide")
    assert people.run("gamma")
    assert people.fill("delta") < alone  # its own lower cap holds for what both spent
    assert people.fill("gamma") > 0  # and the account's, which it opened, for itself
    assert people.run("delta") is None
    with transaction(people.engine) as session:
        caps = [session.get(AccountRow, f"population:{name}").epsilon for name in ("staff", "wide")]
    assert caps == [4.0, 5.0]
    assert people.findings() == []


@pytest.mark.parametrize("next_population", ["", "other"])
def test_who_leaves_takes_no_budget_along(people, alone, next_population):
    for name in ("acme", "beta"):
        people.tenant(name, population="staff")
    people.fill("beta", most=alone - 2)
    people.run("acme")
    people.set("acme", population=next_population)
    assert people.fill("acme") == 1  # what the population has left, whatever the own account still allows
    assert people.run("beta") is None
    with transaction(people.engine) as session:
        assert memberships(session, "acme") == {"staff", *([next_population] if next_population else [])}
    assert people.findings() == []


def test_who_declares_and_leaves_before_any_round_is_a_member_all_the_same(people, alone):
    for name in ("acme", "beta"):
        people.tenant(name, population="staff")
    people.set("acme", population="")
    assert people.fill("beta") == alone
    assert people.run("acme") is None


def test_what_was_spent_before_joining_counts(people, alone):
    people.tenant("acme")
    people.tenant("beta", population="staff")
    assert people.fill("acme", most=alone // 2)
    people.set("acme", population="staff")
    assert people.fill("beta") == alone - alone // 2
    assert people.findings() == []


def test_a_member_that_brings_too_much_along_stops_all_and_is_recorded_though_it_is_refused(people, alone):
    people.tenant("acme")
    people.tenant("beta", population="staff")
    people.fill("beta", most=alone - 1)
    people.fill("acme", most=alone - 1)
    people.set("acme", population="staff")
    before = people.population()
    assert people.run("acme") is None
    assert people.run("beta") is None
    assert people.population() == before
    codes = {one.code for one in people.findings()}
    assert codes == {
        FindingCode.OVERSPEND
    }  # honest: these people lost more than the cap before anybody said so


def test_a_release_gives_back_its_own_charge_and_nothing_of_what_was_carried(people):
    people.tenant("acme")
    for _ in range(3):
        people.run("acme")
    people.set("acme", population="staff")
    before = people.population()
    reservation = people.run("acme")
    with transaction(people.engine) as session:
        people.ledger.release(session, reservation, 1)
    assert people.population() == before
    assert people.findings() == []


def test_a_membership_that_was_removed_or_emptied_is_found(people):
    people.tenant("acme")
    people.run("acme")
    people.set("acme", population="staff")
    people.run("acme")
    lines = parsed(list(export_ledger(people.engine)))
    assert verify_export(sealed(lines)).ok
    without_row = [line for line in lines if line["line"] != "member"]
    assert {one.code for one in verify_export(sealed(without_row)).findings} == {FindingCode.ROW}
    for line in lines:
        if line.get("kind") == "population_joined":
            document = json.loads(line["document"])
            document["carried"] = RdpCurve.zero().to_document()
            line["document"] = canonical(document)
    assert FindingCode.CURVE in {one.code for one in verify_export(sealed(lines)).findings}


def test_a_tenant_of_no_population_is_charged_to_none(people):
    people.tenant("acme")
    people.run("acme")
    with transaction(people.engine) as session:
        assert memberships(session, "acme") == set()
        view = people.ledger.spend(session, "acme", 1)
    assert (view.population_epsilon, view.population_cap) == (0.0, None)


def test_the_loss_that_is_stated_is_the_populations(people):
    for name in ("acme", "beta"):
        people.tenant(name, population="staff")
    people.run("acme")
    for _ in range(5):
        people.run("beta")
    with transaction(people.engine) as session:
        view = people.ledger.spend(session, "acme", 1)
    assert view.population_epsilon > view.lifetime_epsilon
    assert view.population_cap == 4.0


def test_who_waits_for_a_populations_account_is_charged_on_top_of_the_other(people):
    """The waiting statement sees the account and its entry as the other tenant left them."""
    for name in ("acme", "beta"):
        people.tenant(name, population="staff")
        people.run(name)
    before = people.population()
    asked = total_curve(ROUND)
    with ThreadPoolExecutor(1) as pool:
        with transaction(people.engine) as session:
            policy = policies.current_policy(session, "acme").policy
            held = ReservationRequest(
                tenant_id="acme", policy_version=1, period_index=99, purpose=ReadPurpose.TRAINING,
                mechanisms=ROUND, idempotency_key="held", epoch=1, caps=caps_of(policy),
                population=population_of(policy),
            )  # fmt: skip
            people.ledger.reserve(session, held)
            waiting = pool.submit(people.run, "beta")
            with pytest.raises(TimeoutError):
                waiting.result(0.5)  # it needs the account whose lock is held here
        assert waiting.result(30)
    assert people.population() == before + asked + asked
    assert people.findings() == []
