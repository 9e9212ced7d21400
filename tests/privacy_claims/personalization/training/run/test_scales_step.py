"""The step that scales a public part is one of the charged ones: bugs are planted in it, and each is seen."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from personalization.planning.plan import Objective, PerformanceFlags
from personalization.training.engine.loading import loaded_base
from personalization.training.errors import PlanViolatedError
from personalization.training.jobs.job import ExampleKind, TenantJob, UserExamples
from personalization.training.mechanism import clipping, optimizer
from personalization.training.mechanism.optimizer import FusedDPOptimizer
from personalization.training.run.fused import FusedRun
from personalization.training.styles.foundation import lay_foundation
from personalization.training.styles.scales import PartScales
from privacy.noise import lattice
from tests.fakes.small_public_parts import make_public_parts_small
from tests.fakes.tiny_models import damped_plan, make_users, style_card, write_tiny_base

FLAGS = PerformanceFlags(device="cpu")
PLAN = damped_plan(rank=4, max_tokens=60, steps=4, sample_rate=0.6, scaled_layers=2)
# The coins of keys 3, 4, 6 and 7 draw the last of seven users.
KEYS = [bytes([number]) * 32 for number in (3, 4, 6, 7)]
# Of unequal size and of every kind; the last one is large and has many examples.
PEOPLE = (
    *make_users((3,), (4, 4)),
    *make_users((5,), (6, 2), kind=ExampleKind.PREFERENCE),
    *make_users((4, 9), (2,), kind=ExampleKind.UNLIKELIHOOD),
    UserExamples(
        examples=tuple(
            example
            for kind in ExampleKind
            for user in make_users((14, 17), kind=kind)
            for example in user.examples
        )
    ),
)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    make_public_parts_small(monkeypatch)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def laid(base):
    return lay_foundation(*loaded_base(base, FLAGS), job(PEOPLE), FLAGS, lambda *_: None)


def job(users, key=KEYS[0], plan=PLAN):
    return TenantJob(job_key="a", plan=plan, users=tuple(users), noise_key=key, card=style_card())


def run_of(base, laid, users, key=KEYS[0], plan=PLAN):
    decoder, encoder = loaded_base(base, FLAGS)
    return FusedRun(decoder, encoder, [job(users, key, plan)], FLAGS, lambda _p: None, foundation=laid)


class _EnoughError(Exception):
    """The step that is looked at is over."""


def first_sum(base, laid, users, key, plan, monkeypatch):
    """Return what the first step adds up, before its noise, in units of the lattice."""
    seen = []

    def keep(one):
        seen.append(one.parameter.summed_grad.clone().double())
        raise _EnoughError

    with monkeypatch.context() as patched:
        patched.setattr(FusedDPOptimizer, "add_noise", keep)
        with pytest.raises(_EnoughError):
            run_of(base, laid, users, key, plan).train()
    return seen[0]


def largest_influence(base, laid, monkeypatch):
    """Return how far the last user moves the step's sum at most, in clipping norms."""
    ratios = []
    for objective in Objective:
        plan = replace(PLAN, objective=objective)
        for key, last in zip(KEYS, (PEOPLE[-1], *PEOPLE[1:6:2]), strict=True):
            rest = [one for one in PEOPLE if one is not last]
            whole, without = (
                first_sum(base, laid, users, key, plan, monkeypatch) for users in ([*rest, last], rest)
            )
            ratios.append(float(torch.linalg.vector_norm(whole - without)) / lattice.REACH)
    return max(ratios)


def test_a_user_moves_it_by_at_most_the_clipping_norm(base, laid, monkeypatch):
    assert 0.5 < largest_influence(base, laid, monkeypatch) <= 1.0


def signs_by_how_many_there_are(rows, _slopes):
    return rows * 100 * (-1) ** len(rows)


def lengths_by_who_else_is_there(rows, slopes):
    return rows * 100 * (slopes.sum() * 1e6).sin()


@pytest.mark.parametrize("bug", [signs_by_how_many_there_are, lengths_by_who_else_is_there])
def test_users_who_move_each_other_are_found_out(base, laid, monkeypatch, bug):
    plain = PartScales.rows
    monkeypatch.setattr(
        PartScales, "rows", lambda found, slopes, **more: bug(plain(found, slopes, **more), slopes)
    )
    assert largest_influence(base, laid, monkeypatch) > 1.0


def test_users_who_are_not_clipped_are_found_out(base, laid, monkeypatch):
    def long(rows, scales):
        return (rows * scales[:, None] * 50).round().to(torch.int64)

    monkeypatch.setattr(clipping, "whole_rows", long)
    monkeypatch.setattr(clipping, "too_long", lambda whole: torch.zeros(len(whole), dtype=torch.bool))
    assert largest_influence(base, laid, monkeypatch) > 1.0


def test_a_run_with_it_has_a_receipt_without_departures(base, laid):
    run = run_of(base, laid, PEOPLE)
    run.train()
    (receipt,) = run.receipts
    assert receipt.departures == ()
    assert receipt.mechanism == PLAN.mechanism
    assert receipt.steps == 4


def test_it_without_noise_is_refused(base, laid, monkeypatch):
    plain = optimizer.add_noise

    def quiet_at_first(sums, rows, purpose, step):
        return sums.clone() if step == 0 else plain(sums, rows, purpose, step)

    monkeypatch.setattr(optimizer, "add_noise", quiet_at_first)
    with pytest.raises(PlanViolatedError, match="noise"):
        run_of(base, laid, PEOPLE).train()


def test_its_noise_taken_for_another_step_too_is_refused(base, laid, monkeypatch):
    plain = optimizer.add_noise
    monkeypatch.setattr(
        optimizer,
        "add_noise",
        lambda sums, rows, purpose, step: plain(sums, rows, purpose, 0 if step == 1 else step),
    )
    with pytest.raises(PlanViolatedError):
        run_of(base, laid, PEOPLE).train()


def test_it_taken_beside_the_charged_steps_is_refused(base, laid, monkeypatch):
    plain = FusedRun._scale

    def twice(run, found, one, parameter, drawn):
        run._step(one, parameter, drawn)
        plain(run, found, one, parameter, drawn)

    monkeypatch.setattr(FusedRun, "_scale", twice)
    with pytest.raises(PlanViolatedError):
        run_of(base, laid, PEOPLE).train()


def test_a_user_whose_gradient_is_no_number_adds_nothing_and_moves_nobody(base, laid, monkeypatch):
    plan = PLAN.with_mechanism(sample_rate=1.0)
    others = first_sum(base, laid, PEOPLE[:-1], KEYS[0], plan, monkeypatch)
    plain = PartScales.slopes

    def broken(found, decoder, hidden, micro, **more):
        if len(micro.members) == 5:  # not the metric's pass
            hidden = hidden.clone()
            hidden[-micro.members[-1].user.tokens :] = float("nan")
        return plain(found, decoder, hidden, micro, **more)

    monkeypatch.setattr(PartScales, "slopes", broken)
    found = first_sum(base, laid, PEOPLE, KEYS[0], plan, monkeypatch)
    assert bool(others.any())
    assert float((found - others).abs().max()) <= 2  # in units of the lattice: others' last digits


def test_pairs_change_nobodys_precision(base, laid, monkeypatch):
    """Whose loss is taken in full precision is said by the plan, not by who else is in the pass."""
    asked = []
    plain = PartScales.slopes

    def heard(*given, half):
        asked.append(half)
        return plain(*given, half=half)

    monkeypatch.setattr(PartScales, "slopes", heard)
    flags = replace(FLAGS, half_products=True)
    decoder, encoder = loaded_base(base, flags)
    for objective, expected in ((Objective.SFT, True), (Objective.DPO_SIGMOID, False)):
        for users in (PEOPLE, PEOPLE[:2]):
            one = job(users, plan=replace(PLAN, objective=objective))
            run = FusedRun(decoder, encoder, [one], flags, lambda _p: None, foundation=laid)
            del asked[:]
            run.train()
            assert asked == [expected]
