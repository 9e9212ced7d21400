"""A backup of the database is put back in the middle of everything, and reconciled by the command that is for it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.fakes.services import wait_until

RESTORE = "restore from backup"
BACKUP = "chaos-backup"
PATIENCE_SECONDS = 120
SESSION_SECONDS = 4.5  # a little longer than the killed workers' sessions


def restore_backup(world, seconds: float) -> None:
    """Take a backup under load, go on for a while, lose the database, put the backup back and reconcile it."""
    world.postgres.dump(BACKUP)
    time.sleep(seconds)
    workers = world.workers
    for process in list(workers.running):
        workers.end(process, signal.SIGKILL)
    killed = time.monotonic()
    world.engine.dispose()
    world.postgres.put_back(BACKUP)
    environment = {
        **workers._environments[0],
        "DISCREET_BROKER__BOOTSTRAP": world.bootstrap,
        "DISCREET_DATABASE__URL": world.url,
        "DISCREET_KEYS__URL": world.keys_url,
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
    }
    said = []

    def restored() -> bool:
        # Until the killed workers' session has ended they count as members of the group, and it is refused.
        words = ("restore", "--reason", "A backup was put back.", "--json")
        command = [sys.executable, "-m", "streams.cli.main", *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        said.append(done.stdout or done.stderr)
        return done.returncode == 0

    time.sleep(max(0.0, killed + SESSION_SECONDS - time.monotonic()))
    wait_until(restored, PATIENCE_SECONDS, "the backup was not reconciled", 1.0)
    json.loads(said[-1].splitlines()[-1])
    workers.start()
    workers.start()
