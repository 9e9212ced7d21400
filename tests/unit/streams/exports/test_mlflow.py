"""What MLflow is told of a version; once, however often it is told. A real server is asked in the end-to-end test."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from streams.errors import ExportError
from streams.exports import mlflow
from tests.fakes.exports import exported_version


class Client:
    """An ``MlflowClient`` that remembers."""

    def __init__(self):
        self.models, self.versions, self.runs, self.experiments = {}, [], {}, {}

    def search_registered_models(self, filter_string):
        return [name for name in self.models if f"name = '{name}'" == filter_string]

    def create_registered_model(self, name, tags):
        self.models[name] = tags

    def search_model_versions(self, filter_string):
        return [one for one in self.versions if f"name = '{one.name}'" == filter_string]

    def set_model_version_tag(self, name, version, tag, value):
        next(one for one in self.versions if one.version == version).tags[tag] = value

    def get_experiment_by_name(self, name):
        return self.experiments.get(name)

    def create_experiment(self, name):
        self.experiments[name] = SimpleNamespace(experiment_id="1")
        return "1"

    def create_run(self, experiment_id, *, start_time, tags, run_name):
        self.runs[run_name] = run = SimpleNamespace(params={}, metrics={}, tags=tags, ended=None)
        return SimpleNamespace(info=SimpleNamespace(run_id=run_name), run=run)

    def log_param(self, run_id, key, value):
        self.runs[run_id].params[key] = value

    def log_metric(self, run_id, key, value, timestamp):
        self.runs[run_id].metrics[key] = value

    def set_terminated(self, run_id, end_time):
        self.runs[run_id].ended = end_time

    def create_model_version(self, name, source, run_id, tags):
        made = SimpleNamespace(name=name, version=str(len(self.versions) + 1), source=source, tags=dict(tags))
        self.versions.append(made)
        return made


def test_a_version_is_registered_once_with_tags_metrics_and_parameters():
    client = Client()
    assert mlflow.register(client, exported_version()) == "1"
    assert mlflow.register(client, exported_version(state="withdrawn", rollout=None)) == "1"
    assert list(client.models) == ["discreet-acme-legal"]
    (version,) = client.versions
    assert version.tags["discreet.state"] == "withdrawn"
    assert version.tags["discreet.offsets"].startswith("discreet.interactions.v1/0:41, ")
    (run,) = client.runs.values()
    assert run.metrics == {"release_epsilon": 0.5, "cumulative_epsilon": 1.0, "gate.public_text": 0.001}
    assert (run.params["noise_multiplier"], run.params["rank"]) == ("4.0", "4")
    assert run.ended is not None
    other = exported_version(version_id="sha256:" + "d" * 64)
    assert mlflow.register(client, other) == "2"


def test_a_server_that_refuses_is_one_sentence_without_its_words():
    client = Client()
    client.search_registered_models = lambda **_: 1 / 0
    with pytest.raises(ExportError, match=r"the MLflow server refused \(ZeroDivisionError\)"):
        mlflow.register(client, exported_version())


def test_without_mlflow_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "mlflow", None)
    with pytest.raises(ExportError, match=r"discreet\[mlflow\]"):
        mlflow.open_client("sqlite://")
