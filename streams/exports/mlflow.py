"""A version in an MLflow registry: a model of its line, a version with tags, and a run with its parameters and metrics.

Needs the extra ``mlflow``. The weights stay where they are; MLflow is told their digest, and who serves what is ours
to say: no alias is set. Telling a version again changes its tags and makes nothing twice.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from privacy.boundary.marks import Kind
from privacy.boundary.register import BOUNDARY
from streams.errors import ExportError
from streams.exports.facts import producer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streams.exports.facts import Exported

EXPERIMENT: Final = "discreet"
TAG: Final = "discreet.version_id"


def open_client(uri: str) -> Any:
    """Return a client of the tracking server and registry at an address.

    Raises:
        ExportError: MLflow is not installed.
    """
    try:
        from mlflow import MlflowClient  # noqa: PLC0415  # a second of imports, and an optional extra
    except ImportError as error:
        raise ExportError(
            "MLflow is not installed; install discreet with the extra mlflow (discreet[mlflow])"
        ) from error
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def register(client: Any, one: Exported) -> str:
    """Tell of a version, and return the number under which MLflow knows it.

    Args:
        client: an ``MlflowClient``.
        one: the version.

    Raises:
        ExportError: the server refused.
        BoundaryError: something would be told that has no mark.
    """
    told: dict[str, Mapping[str, Any]] = {"params": params(one), "metrics": metrics(one), "tags": tags(one)}
    BOUNDARY.require(
        Kind.LINEAGE_EXPORT, [f"mlflow.{part}.{name}" for part, named in told.items() for name in named]
    )
    try:
        return _register(client, one, told)
    except Exception as error:  # noqa: BLE001  # of MLflow, of requests, by no common class
        raise ExportError(
            f"the MLflow server refused ({type(error).__name__}); check its address and MLFLOW_TRACKING_TOKEN"
        ) from None


def name_of(one: Exported) -> str:
    """Return the name of a line's model: characters that every registry takes."""
    return f"discreet-{one.tenant}-{one.domain}"


def params(one: Exported) -> dict[str, str]:
    """Return what was fixed before the run."""
    mechanism = ("mechanism", "accountant", "unit", "relation", "noise_multiplier", "sample_rate", "steps",
                 "clipping_norm", "contribution_bound", "minimum_cohort", "delta", "target_epsilon")  # fmt: skip
    fixed = {**one.base, **one.shape, **{name: one.privacy[name] for name in mechanism}}
    return {name: str(value) for name, value in fixed.items()}


def metrics(one: Exported) -> dict[str, float]:
    """Return what was found: what it cost, and the figures of the gate."""
    costs = {name: float(one.privacy[name]) for name in ("release_epsilon", "cumulative_epsilon")}
    gate = {
        f"gate.{check['name']}": float(check["value"]) for check in one.checks if check["value"] is not None
    }
    return {**costs, **gate}


def tags(one: Exported) -> dict[str, str]:
    """Return names, digests and how it stands now."""
    stage = "none" if one.rollout is None else f"{one.rollout['stage']} {one.rollout['percent']:g} %"
    offsets = ", ".join(
        f"{place['topic']}/{place['partition']}:{place['next_offset']}" for place in one.inputs
    )
    return {
        TAG: one.version_id,
        "discreet.served_name": one.served_name,
        "discreet.line_ref": one.line_ref,
        "discreet.version": str(one.version),
        "discreet.state": one.state,
        "discreet.rollout": stage,
        "discreet.servers_verified": str(one.servers["verified"]),
        "discreet.ledger_entry": one.privacy["ledger_entry_hash"],
        "discreet.reservation": one.privacy["reservation_id"],
        "discreet.receipt": "signed" if one.receipt else "none",
        "discreet.offsets": offsets or "none",
        "discreet.producer": producer(),
    }


def _register(client: Any, one: Exported, told: Mapping[str, Mapping[str, Any]]) -> str:
    name = name_of(one)
    known = client.search_registered_models(filter_string=f"name = '{name}'")
    if not known:
        client.create_registered_model(name, tags={"discreet.line_ref": one.line_ref})
    for version in client.search_model_versions(f"name = '{name}'"):
        if version.tags.get(TAG) == one.version_id:
            for tag, value in told["tags"].items():
                client.set_model_version_tag(name, version.version, tag, value)
            return str(version.version)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    experiment_id = client.create_experiment(EXPERIMENT) if experiment is None else experiment.experiment_id
    at = round(datetime.fromisoformat(one.published_at).timestamp() * 1000)
    run = client.create_run(experiment_id, start_time=at, tags=dict(told["tags"]), run_name=one.served_name)
    for param, value in told["params"].items():
        client.log_param(run.info.run_id, param, value)
    for metric, number in told["metrics"].items():
        client.log_metric(run.info.run_id, metric, number, timestamp=at)
    client.set_terminated(run.info.run_id, end_time=at)
    source = f"discreet:/{one.served_name}"
    made = client.create_model_version(name, source, run_id=run.info.run_id, tags=dict(told["tags"]))
    return str(made.version)
