"""The subspace of public gradients: what its directions catch and leave alone, that they nest, are kept, and train."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch

from personalization.planning.plan import Family, PerformanceFlags, Subspace, TrainingPlan, mechanism_of
from personalization.quality.abilities.exam import instructions
from personalization.suites.items import items_of
from personalization.suites.values import Axis, SuiteDepth
from personalization.training.engine.decoder import FrozenDecoder
from personalization.training.engine.encoding import Encoder
from personalization.training.engine.families import Geometry
from personalization.training.engine.portable import import_adapter
from personalization.training.jobs.job import Example, TenantJob, TrainingJob, UserExamples
from personalization.training.metric import directions as subspace
from personalization.training.metric.directions import PROTECTED_SHARE, GradientEnergy, squared_norm
from personalization.training.metric.frozen import MAX_TOKENS, frozen_factors, public_subspace
from personalization.training.public.styles import interactions
from personalization.training.public.texts import (
    instruction_users,
    protected_users,
    public_users,
    refusal_users,
    unseen_users,
)
from personalization.training.run.fused import train_on
from tests.fakes.tiny_models import tiny_model, tiny_tokenizer, write_tiny_base

PLAN = TrainingPlan(
    family=Family.CORE, rank=4, alpha=4.0, top_layers=1, expected_cohort=3.0, learning_rate=0.1, max_tokens=60,
    mechanism=mechanism_of(
        steps=2, sample_rate=1.0, clipping_norm=1.0, noise_multiplier=0.0, contribution_bound=2
    ),
    subspace=Subspace.PUBLIC_GRADIENTS,
)  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = write_tiny_base(tmp_path_factory.mktemp("base"), layers=2)
    return FrozenDecoder.load(folder, torch.device("cpu"), torch.float32), Encoder.load(folder), folder


def test_directions_are_those_of_the_gradients_and_nest():
    torch.manual_seed(0)
    inputs, slopes = torch.randn(5, 9), torch.randn(5, 7)
    gradient = slopes.t() @ inputs
    energy = GradientEnergy()
    energy.add(inputs, slopes, weight=1.0)
    down, up = energy.directions(16)
    assert down.shape == (7, 9)
    assert up.shape == (7, 7)
    # One gradient of rank five lies in its own five leading directions entirely.
    caught = up[:5] @ gradient @ down[:5].t()
    assert float(caught.norm()) == pytest.approx(float(gradient.norm()), rel=1e-4)
    assert squared_norm(inputs, slopes) == pytest.approx(float(gradient.norm()) ** 2, rel=1e-4)
    small_down, small_up = energy.directions(3)
    torch.testing.assert_close(small_down, down[:3])
    torch.testing.assert_close(small_up, up[:3])
    with pytest.raises(ValueError, match="at least one"):
        GradientEnergy().directions(1)


def test_nothing_lies_in_the_leading_directions_of_what_is_kept():
    generator = torch.Generator().manual_seed(4)
    kept = torch.randn(200, 32, generator=generator) * torch.logspace(0, -2, 32)
    energy = GradientEnergy()
    for _ in range(3):  # fewer gradients than directions: the rest is filled up, not with what is kept
        energy.add(
            torch.randn(2, 32, generator=generator), torch.randn(2, 20, generator=generator), weight=1.0
        )
    free, _ = energy.directions(16)
    energy.keep(kept[:120])
    energy.keep(kept[120:])
    down, up = energy.directions(16)
    assert (down.shape, up.shape) == ((16, 32), (16, 20))
    torch.testing.assert_close(down @ down.t(), torch.eye(16), atol=1e-5, rtol=0)
    leading = torch.linalg.svd(kept.double(), full_matrices=False).Vh[: 32 // PROTECTED_SHARE]
    assert float((down.double() @ leading.t()).abs().max()) < 1e-5
    assert float((free.double() @ leading.t()).abs().max()) > 0.1
    torch.testing.assert_close(energy.directions(3)[0], down[:3])


def test_a_layer_too_narrow_to_protect_anything_keeps_its_directions():
    energy = GradientEnergy()
    energy.add(torch.eye(5), torch.eye(5), weight=1.0)
    energy.keep(torch.ones(3, 5))
    down, _ = energy.directions(16)
    torch.testing.assert_close(down @ down.t(), torch.eye(5), atol=1e-6, rtol=0)


def changes_of(decoder, encoder, directions, users):
    """Return how much a random core of each layer changes what the layer makes of the base's inputs, per layer."""
    watch: dict[str, list[torch.Tensor]] = {}
    hooks = [
        decoder.linear(*key).register_forward_pre_hook(
            lambda _module, args, key=key: watch.setdefault(key, []).append(args[0].detach().flatten(0, 1))
        )
        for key in directions
    ]
    with torch.no_grad():
        for user in users:
            row = encoder.row(user.examples[0].prompt, user.examples[0].completion, MAX_TOKENS)
            decoder.model(torch.tensor([row.tokens[:-1]]))
    for hook in hooks:
        hook.remove()
    found = {}
    for key, (down, up) in directions.items():
        core = torch.randn(len(up), len(down), generator=torch.Generator().manual_seed(1))
        inputs = torch.cat(watch[key])
        found[key] = float((inputs @ down.t() @ core.t() @ up).norm() / inputs.norm())
    return found


def test_an_adapter_changes_little_of_what_the_layers_make_of_protected_texts(base, monkeypatch):
    decoder, encoder, _ = base
    kept = public_subspace(decoder, encoder, (1,), None)
    monkeypatch.setattr(subspace, "PROTECTED_DIRECTIONS", 0)
    free = public_subspace(decoder, encoder, (1,), None)
    little = changes_of(decoder, encoder, kept, protected_users()[:8])
    much = changes_of(decoder, encoder, free, protected_users()[:8])
    assert all(little[key] < 0.8 * much[key] for key in little)
    # Measured texts are other texts of the same kind: they are spared as well.
    others = changes_of(decoder, encoder, kept, public_users()[:8])
    plain = changes_of(decoder, encoder, free, public_users()[:8])
    assert sum(others.values()) < 0.8 * sum(plain.values())


def test_texts_that_are_measured_are_not_among_those_that_are_protected():
    unseen, gated, protected, interacted = (
        {text for user in users for one in user.examples for text in (one.prompt, one.completion)}
        for users in (unseen_users(), public_users(), protected_users(), interactions())
    )
    assert len(unseen_users()) >= 10
    assert len(public_users()) >= 12
    assert len(protected_users()) >= 24
    assert not unseen & (gated | protected | interacted)
    assert not gated & (protected | interacted)
    assert not protected & interacted
    # Nor near copies: no two share most of their words.
    bags = [
        {frozenset(one.prompt.lower().split()) for user in users for one in user.examples}
        for users in (unseen_users(), (*protected_users(), *public_users()))
    ]
    assert all(len(one & other) <= 0.6 * len(one | other) for one in bags[0] for other in bags[1])


def test_instructions_that_are_measured_are_not_rehearsed_nor_near_copies_of_those():
    rehearsed = {one.prompt for user in instruction_users() for one in user.examples}
    asked = {one.prompt for one in instructions()}
    assert len(rehearsed) >= 24
    for one, other in product(rehearsed, asked):
        mine, theirs = (frozenset(text.lower().split()) for text in (one, other))
        assert len(mine & theirs) <= 0.5 * len(mine | theirs), (one, other)


def test_requests_that_are_refused_in_rehearsal_are_none_of_the_suites_nor_are_the_words():
    pairs = [one for user in refusal_users() for one in user.examples]
    asked = [item for item in items_of(SuiteDepth.FULL).choices if item.axis is Axis.REFUSAL]
    assert len(pairs) >= 16
    assert len(asked) >= 20
    for one, item in product(pairs, asked):
        for mine, theirs in ((one.prompt, item.prompt), (one.completion, item.right)):
            words, others = (frozenset(text.lower().split()) for text in (mine, theirs))
            assert len(words & others) <= 0.4 * len(words | others), (mine, theirs)


def test_it_catches_more_of_a_users_gradient_than_the_weights_do(base):
    decoder, encoder, _ = base
    user = UserExamples(examples=(Example(prompt="Changed files:\n- a/b.py", completion="fix(a): b"),))
    caught = {}
    for source in Subspace:
        plan = replace(PLAN, subspace=source)
        geometry = Geometry.of_plan(plan, decoder.shapes, decoder.layer_count)
        frozen = frozen_factors(decoder, encoder, geometry)
        for down, up in frozen.values():
            torch.testing.assert_close(down @ down.t(), torch.eye(4), atol=1e-4, rtol=0)
            torch.testing.assert_close(up @ up.t(), torch.eye(4), atol=1e-4, rtol=0)
        job = TenantJob(job_key="a", plan=plan, users=(user,), noise_key=b"k" * 32)
        from personalization.training.run.fused import FusedRun

        run = FusedRun(decoder, encoder, [job], PerformanceFlags(), lambda _: None)
        (members,) = run._prefix()
        caught[source] = float(run.user_gradients(run.start.float(), members).norm())
    assert caught[Subspace.PUBLIC_GRADIENTS] > 1.5 * caught[Subspace.WEIGHTS]


def test_it_is_kept_beside_the_base_and_a_damaged_copy_is_replaced(base, tmp_path):
    decoder, encoder, _ = base
    first = public_subspace(decoder, encoder, (1,), tmp_path)
    (path,) = tmp_path.iterdir()
    again = public_subspace(decoder, encoder, (1,), tmp_path)
    assert all(
        torch.equal(part, other) for key in first for part, other in zip(first[key], again[key], strict=True)
    )
    path.write_bytes(b"damaged")
    anew = public_subspace(decoder, encoder, (1,), tmp_path)
    assert path.read_bytes() != b"damaged"
    assert anew.keys() == first.keys()
    torch.testing.assert_close(list(anew.values()), list(first.values()))


def test_an_adapter_trained_in_it_is_exported_and_read_back(base, tmp_path):
    decoder, encoder, folder = base
    users = tuple(
        UserExamples(examples=(Example(prompt=f"p{n}", completion=f"answer {n}"),)) for n in range(3)
    )
    job = TrainingJob(
        base_model=str(folder),
        tenants=(TenantJob(job_key="one", plan=PLAN, users=users, noise_key=b"n" * 32),),
        output=tmp_path,
    )
    (result,) = train_on(decoder, encoder, job, lambda _: None)
    geometry = Geometry.of_plan(PLAN, decoder.shapes, decoder.layer_count)
    vector = import_adapter(result.adapter, geometry, frozen_factors(decoder, encoder, geometry))
    assert float(vector.norm()) == pytest.approx(result.delta_norm, rel=1e-4)


def test_the_subspace_is_taken_from_every_change_and_question_in_every_style():
    pairs = [(one.prompt, one.completion) for user in interactions() for one in user.examples]
    assert len(pairs) == len(set(pairs)) == 10 * 10 + 6 * 4
    assert pairs[0][1] == "fix(parser): escapes in quoted strings"


def test_a_plan_with_a_subspace_survives_its_document():
    assert TrainingPlan.from_document(PLAN.to_document()) == PLAN
    old = {key: value for key, value in PLAN.to_document().items() if key != "subspace"}
    assert TrainingPlan.from_document(old).subspace is Subspace.WEIGHTS


def test_a_model_in_memory_needs_no_folder():
    decoder = FrozenDecoder(tiny_model(layers=2), torch.device("cpu"), torch.float32)
    found = public_subspace(decoder, Encoder(tiny_tokenizer(), 2), (1,), None)
    assert found[1, "up_proj"][0].shape == (16, 32)
