"""Users decide how strongly a public part acts, by one step of the charged mechanism and by nothing beside it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from personalization.planning.plan import FEED_FORWARD, Objective, PerformanceFlags, TrainingPlan
from personalization.training.child import job as child
from personalization.training.engine.batches import Member, PrefixCache, assemble
from personalization.training.engine.loading import loaded_base
from personalization.training.engine.portable import read_factors
from personalization.training.jobs.job import Example, ExampleKind, TenantJob, TrainingJob, UserExamples
from personalization.training.jobs.wire import decode_job, decode_reply, encode_job, encode_results
from personalization.training.mechanism.optimizer import FusedDPOptimizer
from personalization.training.metric.frozen import LoadedShape
from personalization.training.run.fused import FusedRun, train
from personalization.training.run.measure import nll_per_user
from personalization.training.styles import public_part, scales
from personalization.training.styles.foundation import lay_foundation, merged, part_key
from personalization.training.styles.scales import PartScales
from privacy.noise import lattice
from tests.fakes.small_public_parts import make_public_parts_small
from tests.fakes.tiny_models import damped_plan, make_users, poor_card, style_card, write_tiny_base

FLAGS = PerformanceFlags(device="cpu")
PLAN = damped_plan(rank=4, max_tokens=60, steps=3, scaled_layers=2)
WEIGHTS = "adapter_model.safetensors"
MODULES = 7 + 4  # of layer 1, and of layer 2 without its feed-forward layers
USERS = make_users((3,), (5, 2), (4,))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    make_public_parts_small(monkeypatch)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_tiny_base(tmp_path_factory.mktemp("base"))


def tenant(key="a", card=None, plan=PLAN, users=USERS, **changes):
    return TenantJob(
        job_key=key, plan=plan, users=users, noise_key=bytes(32), card=card or style_card(), **changes
    )


def trained(base, output, *tenants):
    job = TrainingJob(base_model=str(base), tenants=tenants, output=output, flags=FLAGS)
    return train(job, lambda _p: None)


def public_of(adapter):
    own = {(2, suffix) for suffix in FEED_FORWARD}
    return {key: pair for key, pair in read_factors(adapter)[0].items() if key not in own}


@pytest.fixture
def laid(base):
    """A public part, its scales, and what reads users."""
    decoder, encoder = loaded_base(base, FLAGS)
    shape = LoadedShape.of_plan(decoder, encoder, PLAN, FLAGS)
    made = lay_foundation(decoder, encoder, tenant(), FLAGS, lambda *_: None)
    found = PartScales.of(made, style_card(), shape.geometry, encoder, PLAN, FLAGS)
    return made, found, shape


def slopes_of(laid, users):
    made, found, shape = laid
    members = [Member(0, shape.read(user), ()) for user in users]
    micro = assemble(members, made.decoder.device, torch.float32)
    with torch.no_grad():
        hidden = made.decoder.run(made.decoder.embed(micro.tokens), micro.batch, range(found.first_layer))
    return found.slopes(made.decoder, hidden, micro, half=False)


def changed(laid, change):
    """The public part's factors after a change of its scales, without anything private."""
    _, found, shape = laid
    plain, _ = loaded_base(shape.decoder.directory, FLAGS)
    return found.scaled(torch.as_tensor(change), plain, shape.encoder, PLAN, FLAGS)


def users_loss(decoder, shape, user):
    micro = assemble([Member(0, shape.read(user), ())], decoder.device, torch.float32)
    with torch.no_grad():
        out = decoder.run(
            decoder.embed(micro.tokens), micro.batch, range(decoder.layer_count), labels_only=True
        )
        return float(micro.terms.total(decoder.head.label_nll(out, micro.batch.targets), None))


def test_a_slope_is_what_the_users_loss_changes_by(laid):
    _, found, shape = laid
    assert found.modules == MODULES
    assert found.first_layer == 1
    slopes = slopes_of(laid, USERS)
    for number, user in enumerate(USERS):
        for module in (0, 3, MODULES - 1):
            step = torch.zeros(MODULES, dtype=torch.float64)
            step[module] = 0.02
            there, back = (users_loss(changed(laid, by).decoder, shape, user) for by in (step, -step))
            assert float(slopes[number, module]) == pytest.approx((there - back) / 0.04, rel=0.05, abs=2e-4)


def test_a_users_slopes_do_not_know_the_others(laid):
    together = slopes_of(laid, USERS)
    for number, user in enumerate(USERS):
        torch.testing.assert_close(slopes_of(laid, [user])[0], together[number], rtol=1e-4, atol=1e-6)


def test_a_pair_is_learned_from_where_it_stands(laid):
    made, found, shape = laid
    pair = UserExamples(
        examples=(Example(prompt="file 1", completion="abc", kind=ExampleKind.PREFERENCE, shown="xyz"),)
    )
    shape = replace(shape, plan=replace(PLAN, objective=Objective.DPO_SIGMOID))
    (slopes,) = slopes_of((made, found, shape), [pair])
    micro = assemble([Member(0, shape.read(pair), ())], made.decoder.device, torch.float32)
    assert len(micro.terms.pairs) == 1

    def rows_nll(decoder):
        with torch.no_grad():
            out = decoder.run(
                decoder.embed(micro.tokens), micro.batch, range(decoder.layer_count), labels_only=True
            )
            return decoder.head.label_nll(out, micro.batch.targets)

    reference = micro.terms.rows_nll(rows_nll(made.decoder))
    for module in (0, MODULES - 1):
        step = torch.zeros(MODULES, dtype=torch.float64)
        step[module] = 0.02
        there, back = (
            float(micro.terms.total(rows_nll(changed(laid, by).decoder), reference)) for by in (step, -step)
        )
        assert float(slopes[module]) == pytest.approx((there - back) / 0.04, rel=0.05, abs=1e-4)
    assert float(slopes.abs().max()) > 1e-3


def test_one_step_scales_and_the_others_train(base, tmp_path):
    (result,) = trained(base, tmp_path / "scaled", tenant())
    (as_made,) = trained(base, tmp_path / "made", tenant(plan=replace(PLAN, scaled_layers=0)))
    assert result.public_part.scaled == MODULES
    assert as_made.public_part.scaled == 0
    assert result.steps == 3
    assert result.delta_norm > 0
    now, before = public_of(result.adapter), public_of(as_made.adapter)
    assert set(now) == set(before)
    moved = 0
    for (layer, suffix), (down, up) in now.items():
        assert torch.equal(down, before[layer, suffix][0])
        if layer == 0:
            assert torch.equal(up, before[layer, suffix][1])
            continue
        scale = float((up * before[layer, suffix][1]).sum() / before[layer, suffix][1].pow(2).sum())
        torch.testing.assert_close(up, scale * before[layer, suffix][1], rtol=1e-4, atol=1e-7)
        assert -1e-6 <= scale <= 2 + 1e-6
        moved += abs(scale - 1) > 1e-3
    assert moved >= MODULES // 2


def test_the_private_part_is_trained_on_the_scaled_one(base, tmp_path, monkeypatch):
    seen = {}
    plain = FusedRun._released

    def released(run, averages):
        seen["run"] = run
        return plain(run, averages)

    monkeypatch.setattr(FusedRun, "_released", released)
    (result,) = trained(base, tmp_path, tenant())
    decoder, _ = loaded_base(base, FLAGS)
    run = seen["run"]
    own = merged(decoder, public_of(result.adapter), run.geometry.scaling)
    for key in public_of(result.adapter):
        torch.testing.assert_close(
            run.decoder.linear(*key).weight, own.linear(*key).weight, rtol=1e-4, atol=1e-5
        )
    fresh = PrefixCache(own, run.geometry.first_layer, enabled=True)
    members = fresh.fill([(0, run.shape.read(user)) for user in USERS], FLAGS.tokens_per_microbatch)
    micro = assemble(members, own.device, torch.float32)
    torch.testing.assert_close(run._cache.hidden(micro), fresh.hidden(micro), rtol=1e-3, atol=1e-3)


def test_no_user_moves_the_step_by_more_than_the_clipping_norm(base, tmp_path, monkeypatch):
    sums = []
    plain = FusedDPOptimizer.add_noise

    def add_noise(optimizer):
        sums.append(optimizer.parameter.summed_grad.clone())
        plain(optimizer)

    monkeypatch.setattr(FusedDPOptimizer, "add_noise", add_noise)
    for name, users in (("all", USERS), ("fewer", USERS[:-1])):
        trained(base, tmp_path / name, tenant(users=users))
    whole, fewer = sums[0].double(), sums[3].double()
    assert float(torch.linalg.vector_norm(whole - fewer)) <= lattice.REACH
    assert float(torch.linalg.vector_norm(whole - fewer)) > 0
    assert not bool(whole[0, MODULES:].any())  # nothing of users stands beside the scales
    assert len(sums) == 6


def test_the_scales_know_users_by_the_noisy_sum_alone(base, tmp_path, monkeypatch):
    plain = FusedDPOptimizer.add_noise
    generator = torch.Generator().manual_seed(5)
    noisy = torch.randint(-lattice.REACH, lattice.REACH, (1, 48), generator=generator)

    def add_noise(optimizer):
        plain(optimizer)
        if optimizer.current_step == 0:
            optimizer.parameter.grad = noisy.to(optimizer.parameter.dtype) / lattice.REACH

    monkeypatch.setattr(FusedDPOptimizer, "add_noise", add_noise)
    made = []
    for name, users in (("one", USERS), ("other", make_users((9, 1), (2,)))):
        (result,) = trained(base, tmp_path / name, tenant(users=users))
        made.append(public_of(result.adapter))
    for key, (down, up) in made[0].items():
        assert torch.equal(down, made[1][key][0])
        assert torch.equal(up, made[1][key][1])


@pytest.mark.parametrize(("losses", "kept"), [([1.0], 1.0), ([9.0, 9.0, 1.0], 0.25), ([9.0] * 5, 0.0)])
def test_a_scaled_part_that_public_text_loses_by_is_scaled_less_or_not_at_all(
    laid, monkeypatch, losses, kept
):
    told = iter(losses)
    monkeypatch.setattr(scales, "public_loss", lambda *_: next(told))
    made, found, shape = laid
    limited = replace(found, foundation=replace(made, limit=2.0))
    object.__setattr__(limited, "metric", found.metric)
    after = limited.scaled(torch.full((MODULES,), 0.8), shape.decoder, shape.encoder, PLAN, FLAGS)
    for key, (_, up) in made.factors.items():
        by = 1.0 + 0.8 * kept * (key[0] >= 1)
        torch.testing.assert_close(after.factors[key][1], by * up, rtol=1e-5, atol=1e-8)
    assert after.facts.scaled == MODULES  # the step is spent, whatever came of it
    assert next(told, None) is None


def test_without_a_public_part_every_step_trains(base, tmp_path):
    (planned,) = trained(base, tmp_path / "planned", tenant(card=poor_card()))
    (plain,) = trained(
        base, tmp_path / "plain", tenant(card=poor_card(), plan=replace(PLAN, scaled_layers=0))
    )
    assert planned.public_part is None
    assert (planned.adapter / WEIGHTS).read_bytes() == (plain.adapter / WEIGHTS).read_bytes()


def test_a_public_part_that_learned_nothing_costs_no_step(base, tmp_path, monkeypatch):
    plain = public_part.PublicPart.train

    def nothing(maker, *given, **more):
        factors, facts = plain(maker, *given, **more)
        return {key: (down, 0.0 * up) for key, (down, up) in factors.items()}, facts

    monkeypatch.setattr(public_part.PublicPart, "train", nothing)
    (planned,) = trained(base, tmp_path / "planned", tenant())
    (unscaled,) = trained(base, tmp_path / "plain", tenant(plan=replace(PLAN, scaled_layers=0)))
    assert planned.public_part.scaled == 0
    assert (planned.adapter / WEIGHTS).read_bytes() == (unscaled.adapter / WEIGHTS).read_bytes()


def test_a_repeat_gives_the_same_bytes(base, tmp_path):
    once, again = (trained(base, tmp_path / name, tenant())[0] for name in ("once", "again"))
    assert (once.adapter / WEIGHTS).read_bytes() == (again.adapter / WEIGHTS).read_bytes()
    assert once.public_part == again.public_part


def test_noise_alone_is_that_of_the_steps_that_train(base, monkeypatch):
    monkeypatch.setattr(child.secrets, "token_bytes", bytes)  # the same noise each time
    fewer = replace(PLAN, scaled_layers=0).with_mechanism(steps=2)
    whole, scaled = (child.noise_norm(base, tenant(), FLAGS, scaled=one) for one in (False, True))
    assert scaled == child.noise_norm(base, tenant(plan=fewer), FLAGS) != whole


def test_a_line_that_keeps_its_public_part_says_that_no_user_scaled_it(base, tmp_path):
    (first,) = trained(base, tmp_path / "one", tenant())
    poor = tenant(card=poor_card(), blend_with=first.adapter, blend_share=0.5, remembers=first.public_part)
    (second,) = trained(base, tmp_path / "two", poor)
    kept = child.blended(poor, second).public_part
    assert (first.public_part.scaled, kept.scaled, kept.pairs) == (MODULES, 0, 0)


def test_a_small_private_part_carries_the_uppermost_scales_alone(base):
    plan = damped_plan(rank=1, max_tokens=60, steps=3, scaled_layers=2)
    decoder, encoder = loaded_base(base, FLAGS)
    shape = LoadedShape.of_plan(decoder, encoder, plan, FLAGS)
    made = lay_foundation(decoder, encoder, tenant(plan=plan), FLAGS, lambda *_: None)
    found = PartScales.of(made, style_card(), shape.geometry, encoder, plan, FLAGS)
    assert found.modules == shape.geometry.size == 3
    assert [slot.key for slot in found.geometry.slots] == [
        (2, name) for name in ("k_proj", "v_proj", "o_proj")
    ]
    assert found.first_layer == 2


def test_tenants_of_one_card_are_scaled_apart(base, tmp_path):
    others = make_users((9, 1), (2,))
    assert part_key(tenant("a")) != part_key(tenant("b"))
    unscaled = replace(PLAN, scaled_layers=0)
    assert part_key(tenant("a", plan=unscaled)) == part_key(tenant("b", plan=unscaled))
    results = trained(base, tmp_path / "both", tenant("a"), tenant("b", users=others))
    (alone,) = trained(base, tmp_path / "alone", tenant("b", users=others))
    here, there = (load_file(one.adapter / WEIGHTS) for one in (alone, results[1]))
    torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-5)


def test_a_release_goes_on_from_a_scaled_one(base, tmp_path, monkeypatch):
    monkeypatch.setattr(scales, "RATE", 1e-3)  # so that no scale stands at its end
    (first,) = trained(base, tmp_path / "one", tenant())
    (second,) = trained(base, tmp_path / "two", tenant(start_adapter=first.adapter))
    assert second.public_part.scaled == MODULES
    (afresh,) = trained(base, tmp_path / "zero", tenant())
    key = (1, "q_proj")  # the slopes are those where the private part starts
    assert not torch.equal(public_of(second.adapter)[key][1], public_of(afresh.adapter)[key][1])


def test_the_plan_and_the_facts_are_kept(base, tmp_path):
    job = TrainingJob(base_model=str(base), tenants=(tenant(),), output=tmp_path, flags=FLAGS)
    assert decode_job(encode_job(job)) == job
    results = train(job, lambda _p: None)
    assert decode_reply(encode_results(results)) == results
    assert results[0].public_part.to_document()["scaled"] == MODULES
    assert TrainingPlan.from_document(PLAN.to_document()) == PLAN
    unscaled = replace(PLAN, scaled_layers=0)
    assert "scaled_layers" not in unscaled.to_document()
    assert TrainingPlan.from_document(unscaled.to_document()) == unscaled
    for wrong in ({"scaled_layers": -1}, {"damping": 0.0}):
        with pytest.raises(ValueError, match="scaled_layers"):
            replace(PLAN, **wrong)
    with pytest.raises(ValueError, match="scaled_layers"):
        PLAN.with_mechanism(steps=1)


def test_it_is_learned_from_users(base, tmp_path):
    """More users of one kind, hardly any noise: the scaled part fits them better than the part as it was made."""
    users = make_users(*[(3, 5)] * 12)
    plan = replace(PLAN, expected_cohort=12.0).with_mechanism(noise_multiplier=0.05, steps=2)
    losses = {}
    for layers in (0, 2):
        still = replace(plan, scaled_layers=layers, learning_rate=1e-9)
        (result,) = trained(base, tmp_path / str(layers), tenant(plan=still, users=users))
        losses[layers] = nll_per_user(base, result.adapter, users[:2], max_tokens=60)
    assert sum(losses[2]) < sum(losses[0])
