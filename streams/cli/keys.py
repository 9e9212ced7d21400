"""``discreet keys``: show which keys are in use, rotate them, and reconcile the key store after a restore."""

from __future__ import annotations

import getpass
import json
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import Engine

    from privacy.keys.keyring import Keyring
    from privacy.keys.rotation import Rotated

app = typer.Typer(
    help="Show, rotate and reconcile the keys that texts are encrypted with.", no_args_is_help=True
)
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON instead of sentences.")]
Actor = Annotated[str | None, typer.Option(help="Who asks; your login name by default.")]
Tenant = Annotated[str | None, typer.Option("--tenant", help="Of this tenant; of all by default.")]


class Which(StrEnum):
    """Which key is rotated."""

    MASTER = "master"
    TENANT = "tenant"
    PSEUDONYMS = "pseudonyms"


@app.command()
def status(*, as_json: AsJson = False) -> None:
    """Show the newest keys, what is still under older ones, and how long backups are kept."""
    from personalization.adapters.signing import key_id
    from privacy.keys.status import status_of
    from streams.processes.keys import CertificateSigner
    from streams.settings import load_settings

    settings = load_settings()
    with _opened() as (engine, keyring):
        facts = status_of(engine, keyring)
        certificates = CertificateSigner(keyring, lambda: datetime.now(UTC)).public_key
    facts["certificates"] = {"public_key": certificates.hex(), "key_id": key_id(certificates)}
    facts["backups"] = {
        "keys_days": settings.backups.keys_days,
        "database_days": settings.backups.database_days,
    }
    if as_json:
        typer.echo(json.dumps(facts))
        return
    master = facts["master"]
    typer.echo(
        f"Master key {master['newest']} wraps {master['under_newest']} keys, older ones {master['older']}."
    )
    for row in facts["tenants"]:
        open_ends = [
            "some users' keys are under an older key" if row["under_older_key"] else "",
            "users are being renamed" if row["renaming"] else "",
        ]
        said = "; ".join(filter(None, open_ends)) or "nothing is left to rotate"
        typer.echo(f"{row['tenant']}: key {row['key']}, pseudonym key {row['pseudonym_key']}; {said}.")
    typer.echo(f"Certificates are signed with {facts['certificates']['public_key']}.")
    backups = facts["backups"]
    typer.echo(
        f"Certificates say: backups of keys end after {backups['keys_days']:g} days, of the database after "
        f"{backups['database_days']:g}."
    )


@app.command()
def rotate(
    which: Annotated[Which, typer.Argument(help="Which key.")],
    *,
    tenant: Tenant = None,
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Make a new key and bring everything under it, while everything runs; an interrupted rotation is taken up.

    A master key of the settings is replaced there first: the new one in DISCREET_MASTER_KEY of every process, the old
    one in DISCREET_KEYS__OLDER_MASTER_KEYS.
    """
    from privacy.keys.rotation import rotate_master

    with _opened() as (engine, keyring):
        if which is Which.MASTER:
            done = {"master": rotate_master(keyring)}
        else:
            names = [tenant] if tenant is not None else _tenants(keyring)
            done = {
                name: _rotate_of(engine, keyring, name, which, actor=actor or getpass.getuser())
                for name in names
            }
    facts = [{"of": name, "key": one.key, "resumed": one.resumed} for name, one in done.items()]
    if as_json:
        typer.echo(json.dumps(facts))
        return
    for one in facts:
        typer.echo(f"{one['of']}: everything is under key {one['key']}.")


def _rotate_of(engine: Engine, keyring: Keyring, tenant_id: str, which: Which, *, actor: str) -> Rotated:
    from personalization.signals.resealing import reseal
    from privacy.keys.rotation import rotate_pseudonyms, rotate_tenant

    now = datetime.now(UTC)
    if which is Which.TENANT:
        return rotate_tenant(engine, keyring, tenant_id, actor=actor, now=now)
    reseal(engine, keyring, tenant_id, now=now)  # what is bound to an old name could not be opened afterwards
    return rotate_pseudonyms(engine, keyring, tenant_id, actor=actor, now=now)


@app.command()
def reconcile(*, tenant: Tenant = None, as_json: AsJson = False) -> None:
    """Carry out again what a restored backup, of the database or of the key store, has undone of erasures."""
    from personalization.signals.rows import delete_user_signals
    from privacy.erasure.reconcile import reconcile as reconcile_tenant

    keys = users = 0
    with _opened() as (engine, keyring):
        for name in [tenant] if tenant is not None else _tenants(keyring):
            done = reconcile_tenant(
                engine, keyring.store, name, now=datetime.now(UTC), delete_signals=delete_user_signals
            )
            keys, users = keys + done.keys, users + done.users
    sentence = f"{keys} keys of erased users were destroyed again, {users} users were erased again."
    typer.echo(json.dumps({"keys": keys, "users": users}) if as_json else sentence)


def _tenants(keyring: Keyring) -> list[str]:
    return sorted({key.tenant_id for key in keyring.store.tenant_keys()})


@contextmanager
def _opened() -> Iterator[tuple[Engine, Keyring]]:
    from streams.processes.keys import open_keyring
    from streams.settings import load_settings
    from streams.storage.schema import open_current

    settings = load_settings()
    engine = open_current(settings.database_url)
    keyring = open_keyring(settings)
    try:
        keyring.store.check()
        yield engine, keyring
    finally:
        keyring.close()
        engine.dispose()
