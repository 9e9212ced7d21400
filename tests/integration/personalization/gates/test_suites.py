"""A tenant's policy has its releases asked the public suites; what is really and much worse is not published."""

from __future__ import annotations

from dataclasses import replace

import pytest

from personalization.gates.evaluating import BEFORE, VERSION, evaluate
from personalization.releases.protocol import Closed
from personalization.suites.values import Axis, AxisScores, SuiteDepth, SuiteScores
from personalization.suites.verdict import AxisVerdict, SuiteTerms, suites_of
from personalization.training.jobs.job import PublicLosses, TenantResult
from privacy.policy import versions as policies
from tests.fakes.training import FakeTrainer, Workshop


def refusals(*adapted, base=0.9):
    return SuiteScores(
        digest="sha256:" + "a" * 64,
        depth=SuiteDepth.QUICK,
        axes=(
            AxisScores(
                axis=Axis.REFUSAL,
                templates=tuple(f"t{n}" for n in range(len(adapted))),
                base=(base,) * len(adapted),
                adapted=adapted,
                measurable=(True,) * len(adapted),
            ),
        ),
    )


GOOD, LESS, BAD = (
    refusals(0.9, 0.91, 0.92, 0.9),
    refusals(0.82, 0.83, 0.84, 0.82),
    refusals(0.3, 0.2, 0.3, 0.4),
)


class AskedTrainer(FakeTrainer):
    """Says what a test lets the suites show, at the depth that a job asks."""

    def __init__(self):
        super().__init__()
        self.asked, self.scores = [], None

    def train(self, job, *, on_progress, should_stop):
        self.asked += [tenant.suites for tenant in job.tenants]
        results = super().train(job, on_progress=on_progress, should_stop=should_stop)
        return tuple(replace(result, suites=self.scores) for result in results)


@pytest.fixture
def shop(engine, clock, tmp_path):
    shop = Workshop(engine, clock, tmp_path)
    shop.trainer = AskedTrainer()
    return shop


def run_round(shop, scores, protocol=None):
    shop.trainer.scores = scores
    shop.open_round()
    shop.process(protocol=protocol).run_once()
    return shop.outcomes.ended[-1]


def test_a_policy_asks_nothing_by_itself_and_an_operator_may_ask_everybody(shop):
    shop.add_tenant()
    assert suites_of(run_round(shop, None).manifest) is None
    asked = run_round(shop, GOOD, shop.protocol(least_suites=SuiteDepth.QUICK))
    assert suites_of(asked.manifest) == GOOD
    assert shop.trainer.asked == [SuiteDepth.OFF, SuiteDepth.QUICK]


def test_what_lost_its_refusals_is_not_published_stays_charged_and_the_limit_is_the_policys(shop):
    shop.add_tenant(suites={"depth": "quick"})
    outcome = run_round(shop, BAD)
    assert isinstance(outcome, Closed)
    assert "suite_refusal: fail: 4 items against the base" in outcome.reason
    with shop.session() as session:
        assert shop.ledger.spend(session, "acme", 0).releases == 1
        changes = {"suites.choice_margin": 0.9}
        policies.set_policy(session, "acme", changes, actor="test", reason="test", now=shop.clock.now())
    lax = run_round(shop, BAD)
    (check,) = [one for one in lax.manifest.evaluation.checks if one.name == "suite_refusal"]
    assert (check.passed, check.threshold, check.privacy_epsilon) == (True, 0.9, 0.0)


def test_a_release_that_was_to_be_asked_and_was_not_is_refused(shop):
    shop.add_tenant(suites={"depth": "quick"})
    assert "suite: not measured" in run_round(shop, None).reason


def test_the_version_before_is_compared_with_and_evaluating_again_says_the_same(shop, tmp_path):
    shop.add_tenant(suites={"depth": "quick", "choice_margin": 0.05})
    first = run_round(shop, GOOD)
    assert "suite_refusal_before: fail" in run_round(shop, LESS).reason
    second = run_round(shop, GOOD)
    names = [one.name for one in second.manifest.evaluation.checks]
    assert {"suite_refusal", "suite_refusal_before"} <= set(names)

    def again(job):
        assert set(job.adapters) == {VERSION, BEFORE}
        return tuple(
            TenantResult(
                job_key=key, adapter=path, steps=0, sample_rate=0.0, noise_multiplier=0.0, delta_norm=0.0,
                trainable_parameters=0, suites=GOOD,
                public_losses=PublicLosses(base=(2.0, 4.0), adapted=(2.0, 4.0)),
            )
            for key, path in job.adapters.items()
        )  # fmt: skip

    found = evaluate(
        second.version_id,
        second.manifest,
        files=shop.artifacts,
        before_id=first.version_id,
        base_model=tmp_path,
        terms=SuiteTerms(depth=SuiteDepth.QUICK),
        flags=None,
        run=again,
    )
    assert (found.accepted, found.as_published) == (True, True)
    assert [(one.against, one.verdict) for one in found.findings] == [
        ("base", AxisVerdict.PASS),
        ("before", AxisVerdict.PASS),
    ]
