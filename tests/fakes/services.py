"""Apache Kafka and PostgreSQL of a test's own, which it may kill, freeze, block and start again."""

from __future__ import annotations

import base64
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from streams.broker.embedded import answers
from tests.fakes.network import Link

START_ATTEMPTS = 10
KEYS_DATABASE = "discreet_keys"  # a backup of the other one that is put back leaves it as it is

KAFKA_PROPERTIES = """
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}{listeners}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}{advertised}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT{protocols}
log.dirs={directory}/data
offsets.topic.replication.factor=1
offsets.topic.num.partitions=2
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
auto.create.topics.enable=false
log.cleaner.dedupe.buffer.size=8000000
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(done: Callable[[], bool], seconds: float, problem: str, pause: float = 0.1) -> None:
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise TimeoutError(problem)
        time.sleep(pause)


class Kafka:
    """One Apache Kafka broker (KRaft) that can be killed and started again on its data.

    Args:
        libs: directory of its jars.
        directory: where it keeps everything; made.
        links: ways to it besides ``bootstrap``; who comes along one is told to go on using it.
    """

    def __init__(self, libs: Path, directory: Path, links: Sequence[Link] = ()) -> None:
        directory.mkdir(parents=True)
        self._directory = directory
        self._port = free_port()
        self.bootstrap = f"127.0.0.1:{self._port}"
        self._java = ["java", "-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        self._java += [f"-Dkafka.logs.dir={directory}", "-cp", f"{libs}/*"]
        self._config = directory / "server.properties"
        listeners = advertised = protocols = ""
        for number, link in enumerate(links):
            inner = free_port()
            link.lead_to(inner)
            listeners += f",LINK{number}://127.0.0.1:{inner}"
            advertised += f",LINK{number}://127.0.0.1:{link.port}"
            protocols += f",LINK{number}:PLAINTEXT"
        properties = KAFKA_PROPERTIES.format(
            controller=free_port(),
            port=self._port,
            directory=directory,
            listeners=listeners,
            advertised=advertised,
            protocols=protocols,
        )
        self._config.write_text(properties)
        cluster = base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip("=")
        tool = [
            "kafka.tools.StorageTool",
            "format",
            "--standalone",
            f"--cluster-id={cluster}",
            "-c",
            str(self._config),
        ]
        subprocess.run([*self._java, *tool], check=True, capture_output=True)
        self.start()

    def start(self) -> None:
        command = [*self._java, "kafka.Kafka", str(self._config)]
        if setpriv := shutil.which("setpriv"):
            command = [setpriv, "--pdeathsig", "KILL", *command]  # it ends with us
        with (self._directory / "kafka.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        wait_until(lambda: answers("127.0.0.1", self._port), 120, "Kafka did not start")

    def restart(self) -> None:
        """Kill it and start it again."""
        self.process.kill()
        self.process.wait()
        self.start()

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


class Disk:
    """A small disk (in memory) that can be filled to the last byte; only root can make one.

    Raises:
        PermissionError: we must not mount anything.
    """

    def __init__(self, directory: Path, megabytes: int) -> None:
        directory.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0755", "tmpfs", str(directory)]
        if os.getuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
            raise PermissionError("a disk of its own can be made by root alone, outside most containers")
        self.directory = directory
        self._ballast = directory / "ballast"

    def fill(self) -> None:
        """Leave no room for anything."""
        with self._ballast.open("wb", buffering=0) as ballast:
            for size in (1 << 20, 1 << 12):
                with suppress(OSError):
                    while ballast.write(bytes(size)) == size:
                        pass

    def empty(self) -> None:
        """Give the room back."""
        self._ballast.unlink(missing_ok=True)

    def close(self) -> None:
        """Let it go, with everything on it, once nobody uses it any more."""
        subprocess.run(["umount", "-l", str(self.directory)], check=False)


class Postgres:
    """One PostgreSQL cluster that can be restarted, blocked, and whose connections can be cut."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        self._directory = directory
        binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
        self._bin = binaries[-1] if binaries else Path(shutil.which("initdb") or "").parent
        self.port = free_port()
        if os.getuid() == 0:
            shutil.chown(directory, "postgres")
            for parent in directory.parents:
                if parent == Path(tempfile.gettempdir()):
                    break
                parent.chmod(0o755)
        self._run("initdb", "-D", f"{directory}/data", "-U", "discreet", "-A", "trust", "--no-sync")
        self._control("start")
        for name in ("discreet", KEYS_DATABASE):
            self._run("createdb", *self._login(), name)
        self.url = self.url_at(self.port)

    def url_at(self, port: int, database: str = "discreet") -> str:
        """Return the address of one of its databases, along another way where the port is another's."""
        return f"postgresql+psycopg://discreet@127.0.0.1:{port}/{database}"

    def _run(self, tool: str, *arguments: str) -> None:
        command = [str(self._bin / tool), *arguments]
        if os.getuid() == 0:
            command = ["runuser", "-u", "postgres", "--", *command]
        subprocess.run(command, check=True, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def _control(self, verb: str) -> None:
        options = f"-c listen_addresses=127.0.0.1 -p {self.port} -k {self._directory} -c max_connections=200"
        options += " -c min_wal_size=32MB -c max_wal_size=96MB"
        place = ("-D", f"{self._directory}/data", "-l", f"{self._directory}/log")
        self._run("pg_ctl", *place, "-w", "-t", "120", "-o", options, verb)

    def restart(self) -> None:
        """Let it end as in a crash, and recover."""
        self._run("pg_ctl", "-D", f"{self._directory}/data", "-m", "immediate", "stop")
        for attempt in range(START_ATTEMPTS):
            try:
                self._control("start")
            except subprocess.CalledProcessError:  # what is left of the old one has not gone yet
                if attempt == START_ATTEMPTS - 1:
                    raise
                time.sleep(1)
            else:
                return

    def revive(self) -> None:
        """Start it again where it has ended by itself."""
        with suppress(subprocess.CalledProcessError):
            self._run("pg_ctl", "-D", f"{self._directory}/data", "status")
            return
        self._control("start")

    def shut_off(self, database: str, seconds: float) -> None:
        """Let nobody connect to one of its databases for a while."""
        engine = create_engine(self.url, isolation_level="AUTOCOMMIT")
        with suppress(OperationalError), engine.connect() as connection:
            connection.execute(text(f"ALTER DATABASE {database} ALLOW_CONNECTIONS false"))
            ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"
            connection.execute(text(ended), {"name": database})
            threading.Event().wait(seconds)
        with engine.connect() as connection:
            connection.execute(text(f"ALTER DATABASE {database} ALLOW_CONNECTIONS true"))
        engine.dispose()

    def dump(self, name: str) -> None:
        """Write a backup of the database while it is used."""
        self._run("pg_dump", *self._login(), "-Fc", "-f", str(self._directory / name), "discreet")

    def put_back(self, name: str) -> None:
        """Put a backup in the place of the database; its sessions are ended."""
        self._run("dropdb", *self._login(), "--force", "discreet")
        self._run("createdb", *self._login(), "discreet")
        self._run("pg_restore", *self._login(), "-d", "discreet", str(self._directory / name))

    def _login(self) -> tuple[str, ...]:
        return "-h", "127.0.0.1", "-p", str(self.port), "-U", "discreet"

    def cut_connections(self) -> None:
        """End every session of others."""
        engine = create_engine(self.url)
        with engine.connect() as connection:
            connection.execute(
                text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
            )
        engine.dispose()

    def lock(self, table: str, seconds: float) -> None:
        """Keep everybody else away from a table for a while, unless somebody parted from us holds it already."""
        engine = create_engine(self.url)
        with suppress(OperationalError), engine.begin() as connection:
            connection.execute(text("SET lock_timeout = '10s'"))
            connection.execute(text(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"))
            threading.Event().wait(seconds)
        engine.dispose()

    def stop(self) -> None:
        with suppress(subprocess.CalledProcessError):
            self._run("pg_ctl", "-D", f"{self._directory}/data", "-m", "immediate", "stop")
