"""Averages of released adapters: exact in the shared subspace, clipped, order-free; forgetting."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from personalization.adapters.factors import average_versions, blend, decayed_weights
from personalization.adapters.files import CONFIG, WEIGHTS
from personalization.errors import MetaStartError
from personalization.gates.drift import movement, noise_between
from personalization.gates.forgetting import public_text_check
from personalization.starts.averaging import Released, TenantLevel, meta_start, tenant_level_start
from personalization.starts.recipe import MetaRecipe, Order, Weighting
from privacy.noise.keystream import PURPOSE_TENANTS, SecretStream
from privacy.noise.normal import gaussians, lattice_step
from streams.processes.trainer import recipe_of
from streams.settings import MetaSettings

KEY = bytes(range(32))
NAME = "base_model.model.model.layers.0.mlp.up_proj"


def adapter(folder, up, down=None, rank=2):
    folder.mkdir(parents=True)
    up = np.asarray(up, dtype=np.float32)
    down = np.eye(rank, 3, dtype=np.float32) if down is None else down
    save_file({f"{NAME}.lora_A.weight": down, f"{NAME}.lora_B.weight": up}, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps({"r": rank, "lora_alpha": 2.0, "target_modules": ["up_proj"]}))
    return folder


def released(tmp_path, *ups, signals=None):
    return [
        Released(
            tenant_id=f"t{number}",
            version_id=f"sha256:{number}",
            directory=adapter(tmp_path / str(number), up),
            clarity=signals[number] if signals else 1.0,
        )
        for number, up in enumerate(ups)
    ]


def result(folder):
    return load_file(folder / WEIGHTS)[f"{NAME}.lora_B.weight"]


MEAN = MetaRecipe(outer_rate=1.0)
ONE, TWO, THREE = np.ones((4, 2)), 2 * np.ones((4, 2)), 6 * np.ones((4, 2))


def test_the_mean_of_the_factors_is_the_mean_of_the_updates(tmp_path):
    parts = released(tmp_path, ONE, TWO, THREE)
    weights = meta_start(parts, MEAN, tmp_path / "meta")
    assert set(weights.values()) == {1 / 3}
    down = load_file(tmp_path / "meta" / WEIGHTS)[f"{NAME}.lora_A.weight"]
    updates = [up @ down for up in (ONE, TWO, THREE)]
    np.testing.assert_allclose(result(tmp_path / "meta") @ down, np.mean(updates, axis=0), rtol=1e-6)


@pytest.mark.parametrize("order", list(Order))
def test_the_order_of_the_argument_does_not_matter(tmp_path, order):
    parts = released(tmp_path, ONE, TWO, THREE, signals=(1.0, 3.0, 2.0))
    recipe = MetaRecipe(order=order, outer_rate=0.5, passes=3, weighting=Weighting.SIGNAL)
    meta_start(parts, recipe, tmp_path / "a")
    meta_start(list(reversed(parts)), recipe, tmp_path / "b")
    np.testing.assert_array_equal(result(tmp_path / "a"), result(tmp_path / "b"))


def test_no_tenant_moves_the_start_by_more_than_its_clipped_share(tmp_path):
    limit = 2.0
    recipe = replace(MEAN, max_delta_norm=limit)
    meta_start(released(tmp_path / "x", ONE, TWO, THREE), recipe, tmp_path / "a")
    meta_start(released(tmp_path / "y", ONE, TWO, 1e6 * THREE), recipe, tmp_path / "b")
    assert np.linalg.norm(result(tmp_path / "b") - result(tmp_path / "a")) <= 2 * limit / 3 + 1e-6


def test_passes_move_towards_the_mean(tmp_path):
    parts = released(tmp_path, ONE, TWO, THREE)
    distances = []
    for passes in (1, 3, 20):
        recipe = MetaRecipe(outer_rate=0.3, passes=passes, max_delta_norm=1e6)
        meta_start(parts, recipe, tmp_path / f"p{passes}")
        distances.append(float(np.abs(result(tmp_path / f"p{passes}") - 3.0).max()))
    assert distances[0] > distances[1] > distances[2]
    assert distances[2] < 0.01


def test_a_generation_goes_on_from_the_one_before(tmp_path):
    meta_start(released(tmp_path / "g1", ONE, ONE, ONE), MEAN, tmp_path / "first")
    recipe = MetaRecipe(outer_rate=0.25, max_delta_norm=1e6)
    meta_start(
        released(tmp_path / "g2", ONE, TWO, THREE), recipe, tmp_path / "second", previous=tmp_path / "first"
    )
    np.testing.assert_allclose(result(tmp_path / "second"), ONE + 0.25 * (3 * ONE - ONE), rtol=1e-6)


def test_the_curriculum_leaves_unclear_releases_out_and_takes_the_clearest(tmp_path):
    parts = released(tmp_path, ONE, TWO, THREE, 9 * ONE, signals=(3.0, 2.0, 1.0, 0.1))
    clear = MetaRecipe(smallest_signal=0.5, max_delta_norm=1e6)
    assert set(meta_start(parts, clear, tmp_path / "a")) == {"sha256:0", "sha256:1", "sha256:2"}
    few = replace(MEAN, minimum_tenants=2, most_tenants=2, max_delta_norm=1e6)
    assert set(meta_start(parts, few, tmp_path / "b")) == {"sha256:0", "sha256:1"}
    np.testing.assert_allclose(result(tmp_path / "b"), 1.5 * ONE)
    with pytest.raises(MetaStartError, match="needs 3 tenants; 2"):
        meta_start(parts, MetaRecipe(smallest_signal=1.5), tmp_path / "c")
    with pytest.raises(ValueError, match="most_tenants is 1"):
        MetaRecipe(most_tenants=1)


def test_clearer_releases_count_more(tmp_path):
    weights = meta_start(
        released(tmp_path, ONE, TWO, THREE, signals=(0.1, 1.0, 10.0)),
        MetaRecipe(weighting=Weighting.SIGNAL),
        tmp_path / "meta",
    )
    assert weights["sha256:0"] < weights["sha256:1"] < weights["sha256:2"]
    assert sum(weights.values()) == pytest.approx(1.0)


def test_tenant_level_noise_is_divided_by_the_declared_number_only(tmp_path):
    level = TenantLevel(noise_multiplier=0.02, declared_tenants=10, stream=SecretStream(KEY))
    template = adapter(tmp_path / "zero", 0 * ONE)
    recipe = MetaRecipe(max_delta_norm=100.0)
    noise = 2.0 * gaussians([SecretStream(KEY)], PURPOSE_TENANTS, 0, ONE.size).reshape(ONE.shape)
    rounding = lattice_step(2.0) / 10
    tenant_level_start(released(tmp_path, ONE, ONE), recipe, level, template, tmp_path / "meta")
    np.testing.assert_allclose(result(tmp_path / "meta"), (2 * ONE + noise) / 10, atol=rounding)
    tenant_level_start([], recipe, level, template, tmp_path / "nobody")
    np.testing.assert_allclose(result(tmp_path / "nobody"), noise / 10, atol=rounding)


def test_one_tenant_moves_the_sum_by_no_more_than_its_bound(tmp_path):
    level = TenantLevel(noise_multiplier=1e-6, declared_tenants=1, stream=SecretStream(KEY))
    template = adapter(tmp_path / "zero", 0 * ONE)
    recipe = MetaRecipe(max_delta_norm=1.0)
    parts = released(tmp_path, ONE, TWO, 1e6 * THREE)
    tenant_level_start(parts, recipe, level, template, tmp_path / "all")
    tenant_level_start(parts[:2], recipe, level, template, tmp_path / "less")
    assert np.linalg.norm(result(tmp_path / "all") - result(tmp_path / "less")) <= 1.0 + 1e-6


def test_too_few_and_doubled_tenants_and_other_subspaces_are_refused(tmp_path):
    parts = released(tmp_path / "x", ONE, TWO, THREE)
    with pytest.raises(MetaStartError, match="needs 3 tenants; 2"):
        meta_start(parts[:2], MetaRecipe(), tmp_path / "m1")
    with pytest.raises(MetaStartError, match="contributes twice"):
        meta_start([*parts, parts[0]], MetaRecipe(), tmp_path / "m2")
    other = Released(
        tenant_id="other",
        version_id="sha256:9",
        directory=adapter(tmp_path / "o", ONE, down=np.full((2, 3), 0.5, dtype=np.float32)),
    )
    with pytest.raises(MetaStartError, match="do not share one frozen subspace"):
        meta_start([*parts, other], MetaRecipe(), tmp_path / "m3")
    with pytest.raises(ValueError, match="outer_rate is 0"):
        MetaRecipe(outer_rate=0.0)


def test_the_exponential_average_forgets_slowly(tmp_path):
    folders = [adapter(tmp_path / str(number), up) for number, up in enumerate((ONE, TWO, THREE))]
    average_versions(folders, tmp_path / "average", decay=0.5)
    expected = (ONE * 0.25 + TWO * 0.5 + THREE) / 1.75
    np.testing.assert_allclose(result(tmp_path / "average"), expected, rtol=1e-6)
    assert decayed_weights(2, 1.0) == [0.5, 0.5]
    with pytest.raises(ValueError, match="decay is 0"):
        decayed_weights(2, 0.0)
    with pytest.raises(MetaStartError, match="no released adapter"):
        average_versions([], tmp_path / "none")


def test_averaging_independent_noise_shrinks_it():
    random = np.random.default_rng(0)
    weights = decayed_weights(5, 0.7)
    noise = sum(weight * random.normal(size=20_000) for weight in weights)
    assert float(np.std(noise)) == pytest.approx(np.sqrt(np.sum(np.square(weights))), rel=0.05)
    assert float(np.std(noise)) < 0.6


def test_movement_is_measured_against_the_noise_that_is_known(tmp_path):
    before, after = adapter(tmp_path / "a", ONE), adapter(tmp_path / "b", TWO)
    still = movement(before, before, noise=1.0)
    assert (still.distance, still.drifted) == (0.0, False)
    moved = movement(before, after, noise=1.0)
    assert (moved.distance, moved.cosine, moved.retained) == pytest.approx((8**0.5, 1.0, 2.0))
    assert moved.drifted
    assert movement(before, after).drifted is None
    assert noise_between(3.0, 4.0, from_earlier=False) == 5.0
    assert noise_between(3.0, 4.0, from_earlier=True) == 4.0
    assert noise_between(None, 4.0, from_earlier=False) is None


def test_two_releases_for_the_same_habit_are_within_their_noise(tmp_path):
    random = np.random.default_rng(0)
    habit = random.normal(size=(200, 2))
    first, second = (habit + 0.3 * random.normal(size=habit.shape) for _ in range(2))
    other = -habit + 0.3 * random.normal(size=habit.shape)
    noise = noise_between(0.3 * 400**0.5, 0.3 * 400**0.5, from_earlier=False)
    folders = [adapter(tmp_path / str(number), up) for number, up in enumerate((first, second, other))]
    same, changed = (movement(folders[0], folder, noise=noise) for folder in folders[1:])
    assert same.ratio == pytest.approx(1.0, abs=0.15)
    assert same.drifted is False
    assert changed.drifted is True


def test_a_blend_at_every_release_denoises(tmp_path):
    blend(adapter(tmp_path / "a", ONE), adapter(tmp_path / "b", THREE), tmp_path / "c", share=0.25)
    np.testing.assert_allclose(result(tmp_path / "c"), 0.25 * ONE + 0.75 * THREE)
    with pytest.raises(ValueError, match="share is 1"):
        blend(tmp_path / "a", tmp_path / "b", tmp_path / "d", share=1.0)


def test_forgetting_of_public_text_fails_the_gate():
    assert public_text_check([2.0, 4.0], [2.0, 4.03]).passed
    assert not public_text_check([2.0, 4.0], [2.2, 4.2]).passed
    assert not public_text_check([2.0], [float("nan")]).passed
    with pytest.raises(ValueError, match="same public texts"):
        public_text_check([1.0], [])


def test_the_settings_have_the_recipes_own_defaults_and_need_no_numpy_to_name_them():
    assert recipe_of(MetaSettings()) == MetaRecipe()
    check = "import sys, streams.settings; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
