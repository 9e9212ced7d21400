"""Admission and verification of the privacy ledger at scale.

    python tests/benchmarks/ledger.py --json ledger.json [--postgres URL] [--samples 300]

For 10, 1,000 and 10,000 tenants with up to 500 past releases each, on SQLite and (with an administrator's
address in ``--postgres`` or ``DISCREET_TEST_POSTGRES``) on PostgreSQL, it measures the latency of
``reserve`` as a transaction of its own, and of a whole round of reserve, start, record_draw and commit,
four transactions. Past releases are filler rows of realistic number and size, written by the database; the
chain's end, the accounts and their curves are genuine, so that admission does its real work. Verification
runs on a genuine export of 10,000 releases.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import secrets
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from personalization.training.jobs.receipt import Receipt, SignedReceipt, public_key_of
from privacy.accounting.composition import ACCOUNTANT, ACCOUNTANT_VERSION, best_epsilon, total_curve
from privacy.accounting.curve import RdpCurve
from privacy.accounting.filters import AccountSettings
from privacy.ledger import BudgetCaps, DrawRecord, Ledger, ReservationRequest
from privacy.ledger.accounts import lifetime_account_id, period_account_id
from privacy.ledger.chain import GENESIS_DIGEST, canonical, digest_of, entry_digest
from privacy.ledger.tables import AccountRow, LedgerEntryRow, LedgerHeadRow
from privacy.ledger.verify import verify_export
from privacy.mechanisms.documents import to_document
from privacy.mechanisms.gaussian import Gaussian
from privacy.mechanisms.private_read import ReadPurpose
from privacy.mechanisms.sampled_gaussian import PoissonSampledGaussian
from privacy.storage.session import open_engine, transaction
from streams.storage import schema as database

CAPS = BudgetCaps(period_epsilon=60.0, period_delta=1e-6, lifetime_epsilon=64.0, lifetime_delta=1e-6)
ROUND = (
    Gaussian(sensitivity=1.0, standard_deviation=50.0, purpose=ReadPurpose.COHORT_COUNT),
    PoissonSampledGaussian(noise_multiplier=20.0, sample_rate=0.2, steps=60),
)
DRAW = DrawRecord(seed_commitment="sha256:s", data_digest="sha256:d", code_digest="sha256:c")
CURVE = total_curve(ROUND)
RELEASE_EPSILON = best_epsilon(CURVE, 1e-6)[0]
PLAN = "sha256:" + "0" * 64
MECHANISMS = [to_document(one) for one in ROUND]
NOW = "2026-01-01T00:00:00.000000+00:00"
ENTRIES_PER_RELEASE = 4
SMALLEST, TARGET = (10, 1), (10_000, 100)
SCALES = [SMALLEST, (10, 500), (1_000, 1), (1_000, 500), (10_000, 1), TARGET]
THREADS = 4
MOST_MILLISECONDS, MOST_SECONDS = 8.0, 60.0


@contextmanager
def quick_to_fill(engine):
    """Leave the guards and the secondary index of the entries off meanwhile: an index is cheaper made at the end."""
    if engine.dialect.name == "postgresql":
        yield
        return
    with engine.begin() as connection:
        connection.exec_driver_sql("PRAGMA cache_size = -200000")
        made = connection.exec_driver_sql(
            "SELECT type, name, sql FROM sqlite_master WHERE tbl_name IN ('ledger_entry', 'ledger_reservation') "
            "AND type IN ('trigger', 'index') AND sql IS NOT NULL"
        ).all()
        for kind, name, _ in made:
            connection.exec_driver_sql(f"DROP {kind} {name}")
    yield
    with engine.begin() as connection:
        for *_, statement in made:
            connection.exec_driver_sql(statement)


def seed(engine, tenants: int, releases: int) -> None:
    """Write tenants whose ledgers hold so many past releases."""
    with quick_to_fill(engine):
        fill(engine, tenants, releases)
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE"))
            connection.execute(text("CHECKPOINT"))  # what was seeded is on disk before anything is measured
    else:
        with engine.begin() as connection:
            connection.execute(text("ANALYZE"))
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.connection.driver_connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def fill(engine, tenants: int, releases: int) -> None:
    series = (
        "generate_series({0}, {1})"
        if engine.dialect.name == "postgresql"
        else "(WITH RECURSIVE n(i) AS (SELECT {0} UNION ALL SELECT i + 1 FROM n WHERE i < {1}) SELECT i FROM n)"
    )
    left = f"{series.format(0, tenants - 1)} AS t{'(i)' if engine.dialect.name == 'postgresql' else ''}"
    last = 2 + releases * ENTRIES_PER_RELEASE
    right = f"{series.format(3, last - 1)} AS r{'(i)' if engine.dialect.name == 'postgresql' else ''}"
    digest = "'sha256:' || substr('0000000000000000000000000000000000000000000000000000000000000000', 1, 64)"
    filler = canonical({"epoch": 1, **vars(DRAW)})
    with engine.begin() as connection:
        if last > 3:
            connection.execute(
                text(
                    "INSERT INTO ledger_entry (tenant_id, sequence, kind, recorded_at, reservation_id, document, "
                    f"previous_digest, digest) SELECT 'tenant-' || t.i, r.i, 'drawn', '{NOW}', "
                    f"'r' || t.i || '-' || (r.i / {ENTRIES_PER_RELEASE}), :filler, {digest}, {digest} "
                    f"FROM {left} CROSS JOIN {right}"
                ),
                {"filler": filler},
            )
        reservations = (
            f"{series.format(1, releases)} AS r{'(i)' if engine.dialect.name == 'postgresql' else ''}"
        )
        connection.execute(
            text(
                "INSERT INTO ledger_reservation (reservation_id, tenant_id, period_index, policy_version, purpose, "
                "idempotency_key, request_digest, state, epoch, mechanisms, accounts, curve) SELECT "
                f"'r' || t.i || '-' || r.i, 'tenant-' || t.i, r.i, 1, 'training', 'past-' || r.i, {digest}, "
                f"'committed', 1, :mechanisms, '[]', '{{}}' FROM {left} CROSS JOIN {reservations}"
            ),
            {"mechanisms": canonical(MECHANISMS)},
        )
    spent = CURVE * releases
    document = spent.to_document()
    orders = {
        name: list(AccountSettings().orders_for(epsilon, 1e-6, CURVE))
        for name, epsilon in (("lifetime", CAPS.lifetime_epsilon), ("period", CAPS.period_epsilon))
    }
    entries, heads, accounts = [], [], []
    for number in range(tenants):
        tenant = f"tenant-{number}"
        ids = {"lifetime": lifetime_account_id(tenant), "period": period_account_id(tenant, 0)}
        entry = {
            "tenant_id": tenant,
            "sequence": last,
            "kind": "reserved",
            "recorded_at": NOW,
            "reservation_id": f"r{number}-{releases}",
            "document": canonical({"curve_digests": dict.fromkeys(ids.values(), digest_of(document))}),
            "previous_digest": GENESIS_DIGEST,
        }
        entries.append({**entry, "digest": entry_digest(**entry)})
        heads.append({"tenant_id": tenant, "sequence": last, "digest": entries[-1]["digest"]})
        accounts += [
            {
                "account_id": ids[scope],
                "scope": scope,
                "tenant_id": tenant,
                "period_index": 0 if scope == "period" else None,
                "epsilon": CAPS.period_epsilon if scope == "period" else CAPS.lifetime_epsilon,
                "delta": 1e-6,
                "rule": "fixed_order",
                "orders": canonical(orders[scope]),
                "curve": canonical(document),
                "entry_tenant_id": tenant,
                "entry_sequence": last,
            }
            for scope in ("lifetime", "period")
        ]
    with engine.begin() as connection:
        for row, values in ((LedgerEntryRow, entries), (LedgerHeadRow, heads), (AccountRow, accounts)):
            connection.execute(row.__table__.insert(), values)


def timed(work) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure(engine, tenants: int, samples: int) -> dict[str, float]:
    """Return p50 and p99 of one admission and of a whole round (milliseconds), and rounds a second by threads."""
    ledger, generator = Ledger(lambda: datetime.now(UTC)), np.random.default_rng(1)
    run = secrets.token_hex(4)

    def reserve(number: int, key: str):
        with transaction(engine) as session:
            return ledger.reserve(
                session,
                ReservationRequest(
                    tenant_id=f"tenant-{number}",
                    policy_version=1,
                    period_index=0,
                    purpose=ReadPurpose.TRAINING,
                    mechanisms=ROUND,
                    idempotency_key=key,
                    epoch=1,
                    caps=CAPS,
                ),
            ).reservation_id

    def finish(held: str) -> None:
        with transaction(engine) as session:
            ledger.start(session, held, 1)
        with transaction(engine) as session:
            ledger.record_draw(session, held, 1, DRAW)
        with transaction(engine) as session:
            ledger.commit(session, held, 1, "sha256:artifact")

    def whole_round(sample: int) -> None:
        finish(reserve(int(chosen[sample]), f"{run}-round-{sample}"))

    chosen = generator.integers(0, tenants, samples)
    for warm in range(10):
        finish(reserve(warm % tenants, f"{run}-warm-{warm}"))
    admissions = [
        timed(lambda n=number, s=sample: reserve(int(n), f"{run}-{s}"))
        for sample, number in enumerate(chosen)
    ]
    rounds = [timed(lambda s=sample: whole_round(s)) for sample in range(samples // 2)]
    with ThreadPoolExecutor(THREADS) as pool:
        seconds = timed(lambda: list(pool.map(whole_round, range(samples // 2, samples))))
    return {
        "reserve_p50": float(np.percentile(admissions, 50)) * 1e3,
        "reserve_p99": float(np.percentile(admissions, 99)) * 1e3,
        "round_p50": float(np.percentile(rounds, 50)) * 1e3,
        "round_p99": float(np.percentile(rounds, 99)) * 1e3,
        "rounds_per_second": (samples - samples // 2) / seconds,
    }


class GenuineTenant:
    """One tenant's chain of committed releases, as the ledger would have written it."""

    def __init__(self, number: int) -> None:
        self.number, self.tenant = number, f"tenant-{number}"
        self.ids = [lifetime_account_id(self.tenant), period_account_id(self.tenant, 0)]
        self.digest, self.sequence, self.spent = GENESIS_DIGEST, 0, RdpCurve.zero()
        self.entries: list[dict] = []
        self.reservations: list[dict] = []
        self.manifests: list[dict] = []
        self.accounts = [
            self._opened(0, "lifetime", CAPS.lifetime_epsilon),
            self._opened(1, "period", CAPS.period_epsilon),
        ]

    def lines(self) -> list[dict]:
        head = {"sequence": self.sequence, "digest": self.digest}
        rows = [{**one, "curve": self.spent.to_document(), **self.last_charge} for one in self.accounts]
        return [
            {"line": "tenant", "tenant_id": self.tenant, "head": head},
            *self.entries,
            *({"line": "account", **row} for row in rows),
            *self.reservations,
        ]

    def release(self, number: int) -> None:
        held = f"{self.number:016x}{number:016x}"
        self.spent += CURVE
        request = {
            "period_index": 0, "policy_version": 1, "purpose": "training", "idempotency_key": f"k{number}",
            "request_digest": GENESIS_DIGEST,
        }  # fmt: skip
        charge = {"mechanisms": MECHANISMS, "accounts": self.ids, "curve": CURVE.to_document()}
        digests = dict.fromkeys(self.ids, digest_of(self.spent.to_document()))
        accountant = {"name": ACCOUNTANT, "version": ACCOUNTANT_VERSION}
        key = hashlib.sha256(held.encode()).digest()  # of the round's receipt
        binding = {"plan_digest": PLAN, "terms_digest": PLAN, "receipt_key": public_key_of(key).hex()}
        document = {
            **request, **charge, "epoch": 1, "accountant": accountant, "curve_digests": digests, "binding": binding,
        }  # fmt: skip
        self._entry("reserved", held, document)
        self.last_charge = {"entry_tenant_id": self.tenant, "entry_sequence": self.sequence}
        self._entry("started", held, {"epoch": 1})
        self._entry("drawn", held, {"epoch": 1, **vars(DRAW)})
        self._entry("committed", held, {"epoch": 1, "artifact_digest": "sha256:a"})
        self.manifests.append(self._manifest(held, key))
        row = {
            "line": "reservation",
            "reservation_id": held,
            "tenant_id": self.tenant,
            "state": "committed",
            "epoch": 1,
        }
        self.reservations.append(
            {
                **row,
                **request,
                **charge,
                **vars(DRAW),
                "artifact_digest": "sha256:a",
                "reason": None,
                "binding": binding,
            }
        )

    def _manifest(self, held: str, key: bytes) -> dict:
        """What a release of the last entry publishes, as far as verification reads it."""
        training = ROUND[1]
        receipt = Receipt(
            mechanism=training, plan_digest=PLAN, steps=training.steps, noise_count=6_144, noise_tolerance=0.1,
            noise_ok=True, distinct_steps_ok=True, coins_ok=True, largest_norm_ok=True,
        )  # fmt: skip
        facts = {
            "mechanism": training.kind, "steps": training.steps, "sample_rate": training.sample_rate,
            "noise_multiplier": training.noise_multiplier, "clipping_norm": None, "contribution_bound": None,
            "release_epsilon": RELEASE_EPSILON, "cumulative_epsilon": best_epsilon(self.spent, 1e-6)[0],
            "delta": 1e-6, "reservation_id": held, "ledger_entry_hash": self.digest, "plan_digest": PLAN,
            "receipt": SignedReceipt.of(receipt, key).to_document(),
        }  # fmt: skip
        lora = {"tensor_digest": "sha256:a"}
        return {"served_name": f"a-{held[:16]}", "scope": "tenant", "lora": lora, "privacy": facts}

    def _opened(self, index: int, scope: str, epsilon: float) -> dict:
        opened = {
            "account_id": self.ids[index], "scope": scope, "tenant_id": self.tenant,
            "period_index": 0 if scope == "period" else None, "epsilon": epsilon, "delta": 1e-6,
            "rule": "fixed_order", "orders": list(AccountSettings().orders_for(epsilon, 1e-6, CURVE)),
        }  # fmt: skip
        digests = {self.ids[index]: digest_of(self.spent.to_document())}
        self._entry("account_opened", None, {"account": opened, "curve_digests": digests})
        return opened

    def _entry(self, kind: str, reservation: str | None, document: dict) -> None:
        self.sequence += 1
        fields = {
            "tenant_id": self.tenant, "sequence": self.sequence, "kind": kind, "recorded_at": NOW,
            "reservation_id": reservation, "document": canonical(document), "previous_digest": self.digest,
        }  # fmt: skip
        self.digest = entry_digest(**fields)
        self.entries.append({"line": "entry", **fields, "digest": self.digest})


def genuine_export(releases: int, tenants: int) -> tuple[list[str], list[dict]]:
    """Return the lines of a genuine export with so many committed releases, and the manifests published on them."""
    manifests: list[dict] = []
    header = {"line": "header", "format": "discreet-ledger", "version": 1, "all_tenants": True}
    lines = [canonical(header)]
    for number in range(tenants):
        tenant = GenuineTenant(number)
        for release in range(releases // tenants):
            tenant.release(release)
        lines += [canonical(line) for line in tenant.lines()]
        manifests += tenant.manifests
    digest = hashlib.sha256("".join(line + "\n" for line in lines).encode()).hexdigest()
    footer = canonical({"line": "footer", "lines": len(lines), "digest": f"sha256:{digest}"})
    return [*lines, footer], manifests


def verify_seconds(releases: int, tenants: int = 100) -> float:
    """Return how long the offline verification of so many releases takes: ledger, manifests and receipts.

    Raises:
        SystemExit: it finds anything, or a receipt was not looked at.
    """
    lines, manifests = genuine_export(releases, tenants)
    documents = [json.dumps(one) for one in manifests]

    def verify() -> None:
        report = verify_export(lines, manifests=(json.loads(one) for one in documents))
        if not report.ok or report.reservations != releases or report.receipts != releases:
            raise SystemExit(f"the export does not verify: {report.findings[:3]}")

    return timed(verify)


class Postgres:
    """Fresh databases on a server that is already there."""

    def __init__(self, administrator: str) -> None:
        self._administrator = administrator

    def _run(self, statement: str) -> None:
        engine = create_engine(self._administrator, isolation_level="AUTOCOMMIT", poolclass=NullPool)
        with engine.connect() as connection:
            connection.execute(text(statement))
        engine.dispose()

    def create(self) -> tuple[str, str]:
        name = f"discreet_bench_{secrets.token_hex(4)}"
        self._run(f"CREATE DATABASE {name}")
        return name, make_url(self._administrator).set(database=name).render_as_string(hide_password=False)

    def durability(self) -> str:
        """Return what the server says of itself: without fsync a commit costs nothing and its time means nothing."""
        engine = create_engine(self._administrator, poolclass=NullPool)
        with engine.connect() as connection:
            shown = {
                name: connection.execute(text(f"SHOW {name}")).scalar_one()
                for name in ("server_version", "fsync", "synchronous_commit", "shared_buffers")
            }
        engine.dispose()
        return ", ".join(f"{name} {value}" for name, value in shown.items())

    def drop(self, name: str) -> None:
        self._run(f"DROP DATABASE {name} WITH (FORCE)")


def on_fresh_database(dialect: str, server: Postgres | None, scale: tuple[int, int], samples: int):
    with tempfile.TemporaryDirectory() as directory:
        name, url = server.create() if server else ("", f"sqlite:///{directory}/ledger.db")
        try:
            database.upgrade(url)
            engine = open_engine(url)
            began = time.perf_counter()
            seed(engine, *scale)
            print(
                f"{dialect} {scale}: seeded in {time.perf_counter() - began:.0f} s",
                file=sys.stderr,
                flush=True,
            )
            figures = measure(engine, scale[0], samples)
            engine.dispose()
            return figures
        finally:
            if server:
                server.drop(name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--postgres", default=os.environ.get("DISCREET_TEST_POSTGRES", ""))
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--releases", type=int, default=10_000, help="of the export that is verified")
    parser.add_argument("--largest-tenants", type=int, default=10_000)
    parser.add_argument("--smallest-tenants", type=int, default=10)
    parser.add_argument("--no-sqlite", action="store_true")
    options = parser.parse_args()
    rows = []

    def row(name, value, unit, must=None, ok=True):
        rows.append({"name": name, "value": round(value, 3), "unit": unit, "must": must, "ok": bool(ok)})
        print(f"{name}: {value:.3f} {unit}" + (f" (must {must})" if must else ""), flush=True)

    servers = {
        **({} if options.no_sqlite else {"sqlite": None}),
        **({"postgresql": Postgres(options.postgres)} if options.postgres else {}),
    }
    for dialect, server in servers.items():
        first = None
        for scale in SCALES:
            if not options.smallest_tenants <= scale[0] <= options.largest_tenants:
                continue
            figures = on_fresh_database(dialect, server, scale, options.samples)
            label = f"{dialect}, {scale[0]:,} tenants × {scale[1]} releases"
            target = dialect == "postgresql" and scale == TARGET
            row(f"{label}: reserve p50", figures["reserve_p50"], "ms")
            row(
                f"{label}: reserve p99", figures["reserve_p99"], "ms",
                f"<= {MOST_MILLISECONDS:g}" if target else None,
                not target or figures["reserve_p99"] <= MOST_MILLISECONDS,
            )  # fmt: skip
            row(f"{label}: whole round p50", figures["round_p50"], "ms")
            row(f"{label}: whole round p99", figures["round_p99"], "ms")
            row(f"{label}: rounds, {THREADS} threads", figures["rounds_per_second"], "1/s")
            first = first or figures
        if first is not None and options.smallest_tenants <= SMALLEST[0]:
            growth = figures["reserve_p50"] / first["reserve_p50"]
            row(f"{dialect}: reserve p50, largest ÷ smallest ledger", growth, "×", "<= 2", growth <= 2)
    seconds = verify_seconds(options.releases)
    row(
        f"offline verify of {options.releases:,} releases with receipts",
        seconds,
        "s",
        f"<= {MOST_SECONDS:g}",
        seconds <= MOST_SECONDS,
    )
    settings = {
        "samples": options.samples, "threads": THREADS, "entries_per_release": ENTRIES_PER_RELEASE,
        "sqlite": "WAL, synchronous=FULL",
        "postgresql": Postgres(options.postgres).durability() if options.postgres else "not run",
        "load_average": os.getloadavg()[0],
    }  # fmt: skip
    machine = {
        "cpu_count": os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
    }
    options.json.write_text(
        json.dumps({"machine": machine, "settings": settings, "rows": rows}, indent=1, ensure_ascii=False)
        + "\n"
    )
    return 0 if all(one["ok"] for one in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
