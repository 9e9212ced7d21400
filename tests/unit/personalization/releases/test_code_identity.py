"""What a retry must repeat: the digest changes with every file that shapes a release, and with nothing beside it."""

from __future__ import annotations

import ast
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from personalization.planning.plan import PerformanceFlags, TrainingPlan
from personalization.releases import code_identity
from personalization.releases.code_identity import RELEASE_CODE, code_digest, release_files, source_digest
from personalization.releases.terms import Terms
from personalization.rounds.slots import Slot
from privacy.mechanisms.sampled_gaussian import PoissonSampledGaussian

ROOT = Path(__file__).resolve().parents[4]
# Values and errors that training names, and that change no number of a release.
HARMLESS = {
    "personalization.adapters.manifest", "personalization.errors", "privacy.errors", "privacy.canonical",
}  # fmt: skip
MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
TERMS = Terms(
    plan=TrainingPlan(
        mechanism=PoissonSampledGaussian(
            steps=4, sample_rate=0.5, clipping_norm=1.0, noise_multiplier=1.0, contribution_bound=4
        ),
        expected_cohort=50,
        learning_rate=0.1,
    ),
    beside=(),
    minimum_cohort=1,
    retention=timedelta(days=1),
    policy_version=1,
    slot=Slot(starts_at=MOMENT, told_at=MOMENT, ends_at=MOMENT),
)


@pytest.fixture
def tree(tmp_path):
    """A copy of our packages, to be changed."""
    for package in ("personalization", "privacy"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_a_change_of_any_file_that_shapes_a_release_changes_the_digest(tree):
    data = tree / "personalization" / "training" / "public" / "deep" / "texts.json"
    data.parent.mkdir(parents=True)
    data.write_text("[]")
    before = source_digest(tree)
    assert before == source_digest(tree)
    files = release_files(tree)
    names = {path.relative_to(tree).as_posix() for path in files}
    for name in RELEASE_CODE:
        place = name.replace(".", "/")
        assert any(one == f"{place}.py" or one.startswith(f"{place}/") for one in names)
    assert data in files
    for path in files:
        kept = path.read_bytes()
        path.write_bytes(kept + b"\n")
        assert source_digest(tree) != before, path
        path.write_bytes(kept)
    assert source_digest(tree) == before


@pytest.mark.parametrize("name", ["later/part.py", "later/still/numbers.json", "empty.txt"])
def test_a_new_file_in_a_new_folder_changes_the_digest(tree, name):
    before = source_digest(tree)
    path = tree / "personalization" / "training" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    assert source_digest(tree) != before


def test_a_moved_file_changes_the_digest(tree):
    before = source_digest(tree)
    folder = tree / "personalization" / "training"
    (folder / "elsewhere").mkdir()
    (folder / "mechanism" / "noise.py").rename(folder / "elsewhere" / "noise.py")
    assert source_digest(tree) != before


def test_the_benchmark_and_compiled_files_change_nothing(tree):
    before = source_digest(tree)
    for path in (tree / "personalization" / "quality").rglob("*.py"):
        path.write_text("changed")
    compiled = tree / "personalization" / "training" / "__pycache__" / "noise.pyc"
    compiled.parent.mkdir()
    compiled.write_bytes(b"x")
    (tree / "personalization" / "releases" / "trainer.py").write_text("changed")
    assert source_digest(tree) == before


def test_a_name_without_a_module_is_refused(tree):
    (tree / "personalization" / "adapters" / "factors.py").unlink()
    with pytest.raises(FileNotFoundError, match=r"personalization\.adapters\.factors shapes releases"):
        source_digest(tree)


def test_whatever_training_and_its_files_import_of_ours_is_in_the_list():
    def module_of(path):
        parts = path.relative_to(ROOT).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    modules = {
        module_of(path): path
        for package in ("personalization", "privacy")
        for path in (ROOT / package).rglob("*.py")
    }
    listed = {module_of(path) for path in release_files(ROOT) if path.suffix == ".py"}
    outside = set()
    for path in release_files(ROOT):
        voting = path.parent.name == "styles" and path.stem in {
            "families",
            "votes",
            "discovery",
        }  # fixes weights
        if path.suffix != ".py" or not (
            voting or {"training", "adapters"} & set(path.relative_to(ROOT).parts)
        ):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                asked = {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import):
                asked = {alias.name for alias in node.names}
            else:
                continue
            outside |= {name for name in asked if name in modules} - listed
    packages = {name for name in outside if modules[name].name == "__init__.py"}
    assert outside - HARMLESS - packages == set()


def test_every_flag_the_hardware_the_start_and_the_blend_count():
    def of(terms=TERMS, hardware="cpu: x", start="zero", **flags):
        flags = PerformanceFlags(**flags)
        return code_digest(terms, flags, base_digest="sha256:b", start=start, hardware=hardware)

    others = [
        of(device="cpu"), of(half_products=True), of(threads=3), of(tokens_per_microbatch=8), of(hardware="cpu: y"),
        of(start="average"), of(replace(TERMS, start_sources=("v",))),
        of(replace(TERMS, blend_with="v", blend_share=0.1)), of(replace(TERMS, blend_with="v", blend_share=0.2)),
        of(replace(TERMS, blend_with="v", blend_share=0.2, remembered=1)),
        of(replace(TERMS, plan=TERMS.plan.with_mechanism(steps=5))),
    ]  # fmt: skip
    assert of() == of()
    assert len({of(), *others}) == len(others) + 1


def test_the_digest_is_that_of_the_files_this_process_runs_from():
    assert code_identity._own_source() == source_digest(ROOT)
