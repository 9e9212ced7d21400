"""Whatever can leave a tenant's data has a mark: fields, metrics and log keys are looked up where the code has them."""

from __future__ import annotations

import ast
import dataclasses
import types
import typing
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import BaseModel

from personalization.adapters.manifest import AdapterManifest
from personalization.rounds.states import OutcomeCode
from personalization.training.engine.portable import adapter_config
from privacy.boundary.marks import Boundary, Group, Kind, Mark, leaves
from privacy.boundary.register import BOUNDARY, REGISTER
from privacy.erasure.certificates import ErasureCertificate
from privacy.errors import BoundaryError
from streams.contracts.adapter import AdapterEventV1, AdapterStateV1
from streams.contracts.dead_letter import PREFIX, DeadLetter
from streams.contracts.envelope import Envelope
from streams.contracts.erasure import ErasureCompletedV1
from streams.telemetry.logs import only_marked
from streams.telemetry.metrics import WorkerMetrics

ROOT = Path(__file__).parents[4]
CHECK_NAMES = {
    "finite",
    "bounded",
    "has_effect",
    "public_text",
    "drift",
    "cosine",
    "retained",
    "noise_norm",
    "blend",
    "audit",
}


def names_of(annotation, prefix="") -> set[str]:
    """Return the dotted names of all values that a field of this type can hold."""
    if typing.get_origin(annotation) is typing.Annotated:
        return names_of(typing.get_args(annotation)[0], prefix)
    if typing.get_origin(annotation) in {tuple, list, typing.Union, types.UnionType}:
        inner = [part for part in typing.get_args(annotation) if part is not Ellipsis]
        return set().union(*(names_of(part, prefix) for part in inner))
    if dataclasses.is_dataclass(annotation):
        hints = typing.get_type_hints(annotation)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        hints = {name: field.annotation for name, field in annotation.model_fields.items()}
    else:
        return {prefix}
    return set().union(
        *(names_of(hint, f"{prefix}.{name}" if prefix else name) for name, hint in hints.items())
    )


def unmarked(kind, names) -> list[str]:
    return sorted(name for name in names if BOUNDARY.mark_of(kind, name) is None)


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        (Kind.MANIFEST, AdapterManifest),
        (Kind.ADAPTER_EVENT, AdapterEventV1),
        (Kind.ADAPTER_STATE, AdapterStateV1),
        (Kind.CERTIFICATE, ErasureCompletedV1),
    ],
)
def test_every_field_that_an_event_or_manifest_can_hold_has_a_mark(kind, form):
    found = names_of(form)
    assert len(found) > 5
    assert unmarked(kind, found) == []


def test_a_field_that_is_added_to_the_manifest_is_found():
    grown = dataclasses.make_dataclass(
        "Grown", [("users", int)], bases=(AdapterManifest,), kw_only=True, frozen=True
    )
    assert unmarked(Kind.MANIFEST, names_of(grown)) == ["users"]


def test_the_certificate_over_http_and_the_headers_of_records_and_letters_have_marks():
    document = {field.name for field in dataclasses.fields(ErasureCertificate)} | {"statement"}
    assert unmarked(Kind.HTTP_ANSWER, {f"certificates.{name}" for name in document}) == []
    full = Envelope(**dict.fromkeys(Envelope._fields, "x"))
    assert unmarked(Kind.ENVELOPE, {name for name, _ in full.headers()}) == []
    letter = {field.name for field in dataclasses.fields(DeadLetter)}
    renamed = {"timestamp_milliseconds": "timestamp", "refused_at": "at"}
    assert unmarked(Kind.DEAD_LETTER, {renamed.get(name, name) for name in letter}) == []
    assert PREFIX.startswith("discreet_")


def test_every_way_in_which_a_round_can_end_has_a_mark():
    assert unmarked(Kind.OUTCOME, {code.value for code in OutcomeCode}) == []


def test_every_metric_of_a_worker_has_a_mark_and_one_without_is_refused():
    names = {family.name for family in WorkerMetrics()._registry.collect()}
    assert len(names) > 10
    assert unmarked(Kind.METRIC, names) == []
    with pytest.raises(BoundaryError, match="discreet_signals"):
        BOUNDARY.require(Kind.METRIC, ["discreet_signals"])


def test_every_fact_that_is_logged_anywhere_has_a_mark():
    keys = set()
    for package in ("privacy", "personalization", "streams"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if _is_log_call(node):
                    keys |= {word.arg for word in node.keywords}
    assert None in keys  # the figures of a candidate, by the names of its checks
    keys = (keys - {None}) | CHECK_NAMES - {"finite"}  # it has no figure
    assert len(keys) > 20
    assert unmarked(Kind.LOG, keys) == []
    assert not {"users", "examples", "tokens", "signals", "rows", "loss", "norm", "tokens_per_second"} & keys


def _is_log_call(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in {"debug", "info", "warning", "error", "exception", "critical"}
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id in {"log", "_log", "logger"}
    )


def test_a_fact_without_a_mark_does_not_reach_the_log():
    event = only_marked(None, "info", {"event": "x", "level": "info", "users": 17, "stage": "train"})
    assert event == {"event": "x", "level": "info", "stage": "train", "unmarked": ["users"]}


def test_the_config_beside_the_weights_has_marks():
    geometry = SimpleNamespace(rank=2, alpha=4.0, suffixes=("up_proj",), layers=(1,))
    config = adapter_config(geometry, [(1, "up_proj")], "/srv/models/base-7b")
    assert unmarked(Kind.ADAPTER_CONFIG, set(leaves(config))) == []
    assert config["base_model_name_or_path"] == "base-7b"


def test_nothing_passes_without_a_mark_and_no_field_has_two():
    with pytest.raises(BoundaryError, match="secret of manifest"):
        BOUNDARY.release(Kind.MANIFEST, 1, {"version": 1, "secret": 2})
    with pytest.raises(BoundaryError, match=r"lineage\.users"):
        BOUNDARY.release(Kind.MANIFEST, 1, {"lineage": {"users": 3}})
    assert BOUNDARY.release(Kind.MANIFEST, 7, {"files": [{"path": "a"}]}).value == 7
    group = Group(Mark.PUBLIC, "why", ("a",))
    with pytest.raises(ValueError, match="two marks"):
        Boundary({Kind.LOG: (group, group)})


def test_every_kind_is_registered_and_every_group_says_why():
    assert set(REGISTER) == set(Kind)
    for groups in REGISTER.values():
        for group in groups:
            assert group.fields
            assert group.why.endswith(".")


def test_times_that_are_published_are_those_of_slots():
    for kind, name in (
        (Kind.MANIFEST, "created_at"),
        (Kind.ADAPTER_EVENT, "occurred_at"),
        (Kind.ADAPTER_STATE, "updated_at"),
        (Kind.ENVELOPE, "ce_time"),
        (Kind.HTTP_ANSWER, "adapters.published_at"),
    ):
        assert BOUNDARY.mark_of(kind, name) is Mark.SLOT_TIMED
