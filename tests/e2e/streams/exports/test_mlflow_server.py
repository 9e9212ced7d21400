"""A real MLflow server with SQLite is told of a version by the command; marked slow, since it is half a gigabyte.

``DISCREET_TEST_MLFLOW`` names an environment that has MLflow; without it one is made.
"""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
import time
import venv
from pathlib import Path

import httpx
import pytest

from streams.cli.main import main
from streams.demo.environment import free_port
from tests.fakes.rollouts import RolloutShop

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.parametrize("database_url", ["sqlite"], indirect=True),
]
MLFLOW = "mlflow==3.17.2"
# MLflow's own packages first; what discreet needs beside them from where the tests run.
RUN = "import sys; sys.path.append(sys.argv.pop(1)); from streams.cli.main import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture
def python(tmp_path):
    """The interpreter of an environment with MLflow."""
    target = Path(os.environ.get("DISCREET_TEST_MLFLOW") or tmp_path / "mlflow")
    found = target / "bin" / "python"
    if not found.exists():
        venv.create(target, with_pip=True)
        subprocess.run([found, "-m", "pip", "install", "--quiet", MLFLOW], check=True)
    return found


@pytest.fixture
def server(python, tmp_path):
    """The address of a server that keeps everything in SQLite."""
    port = free_port()
    command = [
        python, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db",
        "--artifacts-destination", tmp_path / "files", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
    ]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=tmp_path)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                if httpx.get(f"{url}/health").status_code == 200:
                    break
            except httpx.HTTPError:
                assert process.poll() is None, (tmp_path / "server.log").read_text()[-2000:]
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def test_a_version_is_in_the_registry_with_its_run(
    engine, clock, tmp_path, monkeypatch, capsys, python, server
):
    shop = RolloutShop(engine, clock, tmp_path, **{"rollout.steps": ()})
    version_id = shop.publish()
    monkeypatch.setenv("DISCREET_DATABASE__URL", engine.url.render_as_string(hide_password=False))
    key = shop.signer.public_key.hex()
    assert main(["explain", version_id, "--public-key", key, "--json"]) == 0
    story = tmp_path / "story.json"
    story.write_text(capsys.readouterr().out.splitlines()[-1])
    main_packages = sysconfig.get_path("purelib")
    root = Path(__file__).parents[4]
    command = [python, "-c", RUN, main_packages, "explain", story, "--public-key", key, "--mlflow", server]
    for _ in range(2):  # the second time changes tags alone
        told = subprocess.run(
            command, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True, check=False
        )
        assert told.returncode == 0, told.stderr[-2000:]
        assert "MLflow knows it as version 1 of discreet-acme-default." in told.stderr
    api = f"{server}/api/2.0/mlflow"
    found = httpx.get(
        f"{api}/model-versions/search", params={"filter": "name = 'discreet-acme-default'"}
    ).json()
    (version,) = found["model_versions"]
    tags = {tag["key"]: tag["value"] for tag in version["tags"]}
    assert tags["discreet.version_id"] == version_id
    assert tags["discreet.state"] == "published"
    run = httpx.get(f"{api}/runs/get", params={"run_id": version["run_id"]}).json()["run"]
    manifest = json.loads(json.loads(story.read_text())["manifest"])
    metrics = {metric["key"]: metric["value"] for metric in run["data"]["metrics"]}
    assert metrics["release_epsilon"] == pytest.approx(manifest["privacy"]["release_epsilon"])
    assert {param["key"] for param in run["data"]["params"]} >= {"noise_multiplier", "rank", "model_id"}
