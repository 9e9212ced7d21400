"""Run by hand what compose.yaml runs in containers: prepare, then worker and trainer with their health checks.

Usage: python3 .ci/compose_commands.py STATE_DIRECTORY, with DISCREET_TEST_KAFKA and DISCREET_TEST_POSTGRES set.
The environment is that of compose.yaml, with the addresses of these services in the place of the containers'.
"""

import base64
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import yaml

START_SECONDS = 300
SECRETS = {
    "DISCREET_MASTER_KEY": base64.b64encode(os.urandom(32)).decode(),
    "DISCREET_ADAPTER_KEY": base64.b64encode(os.urandom(32)).decode(),
    "DISCREET_POSTGRES_PASSWORD": "unused",
}


def environment_of(service: dict, state: Path) -> dict[str, str]:
    """Return the variables of a service, with local addresses and fresh secrets."""

    def filled(text: str) -> str:
        return re.sub(r"\$\{(\w+)(?::[-?]([^}]*))?\}", lambda m: SECRETS.get(m[1], m[2] or ""), text)

    given = {name: filled(str(value)) for name, value in service["environment"].items()}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DISCREET_")}
    return {
        **inherited,
        **{name: value for name, value in given.items() if value},
        "DISCREET_STATE": str(state),
        "DISCREET_DATABASE__URL": os.environ["DISCREET_TEST_POSTGRES"],
        "DISCREET_KEYS__URL": os.environ["DISCREET_TEST_POSTGRES_KEYS"],
        "DISCREET_BROKER__BOOTSTRAP": os.environ["DISCREET_TEST_KAFKA"],
    }


@contextmanager
def running(name: str, service: dict, environment: dict[str, str]) -> Iterator[subprocess.Popen]:
    """Start a service's command; stop it with SIGTERM at the end, which must be in order."""
    process = subprocess.Popen(service["command"], env=environment)  # noqa: S603  # the file under test
    try:
        yield process
    except BaseException:
        process.kill()
        raise
    process.terminate()
    status = process.wait(180)
    if status not in {0, -signal.SIGTERM}:  # by the signal itself: it was still starting
        sys.exit(f"{name}: stopped with status {status}")
    print(f"{name}: healthy, stopped in order")


def wait_until_healthy(
    name: str, service: dict, environment: dict[str, str], process: subprocess.Popen
) -> None:
    """Run the service's health check until it passes."""
    health = service["healthcheck"]["test"]
    assert health[0] == "CMD", health
    check = [sys.executable if word == "python" else word for word in health[1:]]
    end = time.monotonic() + START_SECONDS
    while subprocess.run(check, env=environment, capture_output=True, check=False).returncode:  # noqa: S603
        if process.poll() is not None or time.monotonic() > end:
            sys.exit(f"{name}: not healthy; its status is {process.poll()}")
        time.sleep(1)


def main() -> None:
    """Run every command of the discreet services in the order in which Compose would."""
    compose = yaml.safe_load(Path("compose.yaml").read_text("utf-8"))
    state, services = Path(sys.argv[1]), compose["services"]
    prepare = services["prepare"]
    subprocess.run(prepare["command"], env=environment_of(prepare, state), check=True)  # noqa: S603  # the file under test
    with ExitStack() as stopped:  # side by side, as Compose runs them
        started = []
        for name in ("worker", "trainer"):
            service, environment = services[name], environment_of(services[name], state)
            process = stopped.enter_context(running(name, service, environment))
            started.append((name, service, environment, process))
        for one in started:
            wait_until_healthy(*one)
        time.sleep(2)
        for name, _, _, process in started:
            if process.poll() is not None:
                sys.exit(f"{name}: ended by itself with status {process.returncode}")


if __name__ == "__main__":
    main()
