"""``discreet explain``: the story of one version on one page, and what proves it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from personalization.releases.story import Proof
    from streams.settings import Settings


def command(
    name: Annotated[
        str, typer.Argument(metavar="VERSION", help="Served name or version id, or a file that --json wrote.")
    ],
    *,
    public_key: Annotated[
        list[str] | None,
        typer.Option(
            help="Public key in hexadecimal that versions are signed with; this installation's by default."
        ),
    ] = None,
    gateway: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Also ask this gateway how the domain's versions were taken in the last day: the tenant's own exact "
            "numbers.",
        ),
    ] = None,
    gateway_token: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Holds a token of the tenant with the right users, for --gateway."),
    ] = None,
    openlineage: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|URL", help="Also write it as run events of OpenLineage, or send them to a server."
        ),
    ] = None,
    mlflow: Annotated[
        str | None, typer.Option(metavar="URI", help="Also register it in the MLflow registry there.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write the story as JSON: all that proves it.")
    ] = False,
) -> None:
    """Tell how a version came about, what it cost, how it was judged and rolled out, who serves it, and how it ended.

    A file that ``--json`` wrote is checked without any database: with its manifest, its ledger entries and the public
    keys. What does not hold ends the command with status 1, and is not exported.
    """
    from personalization.releases.story import check_story
    from privacy.boundary.marks import Kind, leaves
    from privacy.boundary.register import BOUNDARY
    from streams.settings import load_settings

    file = Path(name)
    if file.is_file():
        settings = None if public_key else load_settings()
        story = _read(file)
    else:
        settings = load_settings()
        story = _stored(settings, name, _asker(gateway, gateway_token))
    keys = [_key(one) for one in public_key] if public_key else _own_keys(settings)
    proofs = check_story(story, keys)
    if as_json:
        told = {**story, "proofs": [{"what": one.what, "holds": one.holds} for one in proofs]}
        BOUNDARY.require(Kind.STORY, leaves(told))
        typer.echo(json.dumps(told))
    else:
        for line in page(story, proofs):
            typer.echo(line)
    if not all(one.holds for one in proofs):
        raise typer.Exit(1)
    _export(story, openlineage=openlineage, mlflow=mlflow)


def page(story: Mapping[str, Any], proofs: Sequence[Proof]) -> Iterator[str]:
    """Yield the lines of the page."""
    manifest = json.loads(story["manifest"])
    yield f"{story['served_name']}: version {manifest['version']} of tenant {story['tenant']}, domain {story['domain']}"
    now = "it is what the line serves" if story["served_now"] else "the line does not serve it"
    yield f"  state      {story['state']}; {now}"
    yield f"  id         {story['version_id']}"
    yield from _made(story, manifest)
    yield from _judged(story, manifest)
    yield from _lived(story)
    for proof in proofs:
        yield f"  {'holds' if proof.holds else 'BROKEN':10} {proof.what}"


def _made(story: Mapping[str, Any], manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yield what it was made of, and what it cost."""
    lineage, privacy = manifest["lineage"], manifest["privacy"]
    opened = story["round"]
    if opened is not None:
        slot = opened["scheduled_for"] or "by hand"
        yield f"  round      {opened['round_id']}, opened by {opened['opened_by']}, slot {slot}"
        yield f"             read {opened['read_at']}; {opened['outcome']}"
    yield f"  start      {lineage['start']}" + (
        f" from {lineage['start_version_id']}" if lineage["start_version_id"] else ""
    )
    for one in story.get("inputs") or ():
        yield f"  input      {one['topic']} partition {one['partition']}, read up to {one['next_offset']}"
    yield f"  data       {lineage['data_digest'] or 'none'} (keyed digest of what was read, consents included)"
    consents = story.get("consents")
    if consents is not None:
        counted = (
            "not counted" if consents["noisy_users"] is None else f"{consents['noisy_users']} with noise"
        )
        yield (
            f"  consents   to {consents['purpose']} as they stood {consents['at'][:19]}, policy "
            f"{consents['policy_version']}; users: {counted}"
        )
    yield f"  code       {lineage['code_digest'] or 'none'}"
    yield (
        f"  privacy    ε {privacy['release_epsilon']:.4g} of this release, {privacy['cumulative_epsilon']:.4g} in all "
        f"of {privacy['target_epsilon']:g} at δ {privacy['delta']:g}; {privacy['mechanism']}"
    )
    for entry in story["ledger"]:
        yield f"  ledger     {entry['recorded_at']}  {entry['kind']}  {entry['digest'][:23]}…"
    yield f"  receipt    {'signed, in the manifest' if privacy.get('receipt') else 'none'}"


def _judged(story: Mapping[str, Any], manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the gate and the rollout said."""
    for check in manifest["evaluation"]["checks"]:
        value = "" if check["value"] is None else f" {check['value']:.4g}"
        bound = "" if check["threshold"] is None else f" (limit {check['threshold']:g})"
        yield f"  gate       {check['name']}: {'passed' if check['passed'] else 'failed'}{value}{bound}"
    rollout = story["rollout"]
    if rollout is not None:
        yield (
            f"  rollout    {rollout['stage']} at {rollout['percent']:g} %, line {rollout['mode']}, "
            f"flag {rollout['flag']}, steps {', '.join(f'{step:g}' for step in rollout['plan']['steps'])}"
        )
    yield from _comparison(story.get("comparison"))
    for guard in story.get("guards", ()):
        yield f"  guard      {guard['name']} {guard['value']:g} at {guard['at'][:19]}"


def _lived(story: Mapping[str, Any]) -> Iterator[str]:
    """Yield who decided what about it, who served it, how it was taken, and how it ended."""
    for record, why in _trail(story["trail"]):
        yield f"  trail      {record['at'][:19]}  {record['action']} by {record['actor']}: {why}"
    for ack in story["served_by"]:
        yield f"  server     {ack['server_id']} ({ack['engine']}): {ack['status']} at {ack['at'][:19]}"
    for row in story.get("kpis") or ():
        yield f"  quality    {_quality(row)}"
    for choice in story.get("choices") or ():
        names = ", ".join(choice["candidates"])
        yield (
            f"  choice     {choice['closed_at'][:19]}  {choice['actor']}: users chose template {choice['template']} "
            f"(candidate {choice['drawn'] or 'unknown'} of {names or 'unknown'}) at epsilon {choice['epsilon']:g}: "
            f"{choice['reason']}{' (damaged: its row cannot be read)' if choice.get('damaged') else ''}"
        )
    for alarm in story.get("alarms") or ():
        yield (
            f"  alarm      {alarm['at'][:19]} what users ask changed ({alarm['family']}, {alarm['statistic']:.1f} of "
            f"{alarm['threshold']:.1f}): {alarm['followed']}"
        )
    for one in story.get("memory") or ():
        back = f" to {one['restores']}" if one["restores"] else ""
        why = f": {one['reason']}" if one["reason"] else ""
        yield (
            f"  memory     {one['at'][:19]}  {one['collection']}@{one['version']} with {one['documents']} documents "
            f"({one['version_id'][7:23]}), {one['decision'].replace('_', ' ')}{back} by {one['by']}{why}"
        )
    if story["drift"] is not None:
        yield "  drift      " + ", ".join(f"{name} {value}" for name, value in story["drift"].items())
    if story["left"] is not None:
        yield f"  left       {story['left']['at'][:19]} by {story['left']['by']}: {story['left']['reason']}"
    if story.get("heirs"):
        yield f"  heirs      {', '.join(story['heirs'])}: a withdrawal reaches them too"


def _comparison(facts: Mapping[str, Any] | None) -> Iterator[str]:
    """Yield what the charged comparison of users' reactions released, look by look."""
    if facts is None:
        return
    noise = facts["plan"]["mechanism"]["noise_multiplier"]
    verdict = facts["verdict"].replace("_", " ")
    yield f"  reactions  {verdict} (compared with {facts['version']}), noise multiplier {noise:g}"
    yield f"             charged by reservation {facts['reservation_id'] or 'none'}"
    for look in facts["looks"]:
        if look["lost"]:
            said = "lost, nothing was told"
        elif not look.get("holds", True):
            said = "its sums are not those that were signed for this charge; nothing is decided from them"
        elif look["effect"] is None:
            said = "nothing is decided from it, because an earlier look does not hold"
        else:
            said = f"acceptance {100 * look['effect']:+.1f} points so far, of about {look['users']:.0f} users"
        yield f"             look {look['look'] + 1} at {look['taken_at'][:19]}: {said}"


def _trail(records: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Yield what was done, and why; of each guard, which is posted again and again, the last reading."""
    from personalization.rollouts.evidence import GUARD_POSTED

    last = {record["detail"]["guard"]: record for record in records if record["action"] == GUARD_POSTED}
    for record in records:
        detail = record["detail"]
        if record["action"] != GUARD_POSTED:
            yield record, detail.get("reason", "")
        elif last[detail["guard"]] is record:
            yield record, f"{detail['guard']} {detail['value']:g}"


def _quality(row: Mapping[str, Any]) -> str:
    """Return the serving quality of one version, as far as it is known."""
    told = {
        "answers": row["answers"], "completed": row["completion"], "p50 s": row["latency_p50"],
        "p95 s": row["latency_p95"], "tokens": row["tokens"], "judged": row["feedback"],
        "accepted": row["acceptance"], "edited by": row["edit_distance"], "rating": row["rating"],
    }  # fmt: skip
    known = (f"{name} {value:.3g}" for name, value in told.items() if value is not None)
    return f"{row['version']}: {', '.join(known)}"


def _export(story: Mapping[str, Any], *, openlineage: str | None, mlflow: str | None) -> None:
    """Tell other systems of a story that holds; what is said of it goes to standard error, beside the page."""
    from streams.exports.facts import exported
    from streams.settings import load_settings

    if openlineage is not None:
        from streams.exports import openlineage as lineage

        brokers = load_settings().broker.bootstrap.split(",")[0]
        if openlineage.startswith(("http://", "https://")):
            api_key = os.environ.get("OPENLINEAGE_API_KEY")
            lineage.send(exported(story), openlineage, brokers=brokers, api_key=api_key)
        else:
            text = "".join(f"{line}\n" for line in lineage.lines(exported(story), brokers=brokers))
            Path(openlineage).write_text(text, encoding="utf-8")
        typer.echo("The run events of OpenLineage are told.", err=True)
    if mlflow is not None:
        from streams.exports import mlflow as registry

        number = registry.register(registry.open_client(mlflow), exported(story))
        typer.echo(f"MLflow knows it as version {number} of {registry.name_of(exported(story))}.", err=True)


def _asker(gateway: str | None, token: Path | None) -> Callable[[str], list[dict[str, Any]]] | None:
    """Return what asks a gateway for the serving quality of a domain's versions; ``None``: nobody is to be asked."""
    from streams.errors import SettingsError

    if gateway is None:
        return None
    if token is None:
        raise SettingsError(
            "--gateway is asked with a token of the tenant; put the file that holds it into --gateway-token"
        )
    bearer = token.read_text("utf-8").strip()

    def ask(domain: str) -> list[dict[str, Any]]:
        import httpx

        from streams.errors import ServingUnavailableError

        try:
            answered = httpx.get(
                f"{gateway.rstrip('/')}/v1/kpis", headers={"Authorization": f"Bearer {bearer}"}, timeout=10
            )
            answered.raise_for_status()
            rows: list[dict[str, Any]] = answered.json()["kpis"]
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise ServingUnavailableError(
                f"the gateway told no serving quality ({type(error).__name__}); check its address, and that the token "
                "is the tenant's and has the right users"
            ) from None
        return [row for row in rows if row["domain"] == domain]

    return ask


def _stored(
    settings: Settings, name: str, ask: Callable[[str], list[dict[str, Any]]] | None
) -> dict[str, Any]:
    from personalization.choices.rows import choices_between
    from personalization.drift.rows import alarms_between
    from personalization.memory.histories import held_between
    from personalization.registry import queries as registry
    from personalization.releases.story import story_of
    from streams.storage import serving_acks
    from streams.storage.schema import current_session

    with current_session(settings.database_url) as session:
        row = registry.find_version(session, name)
        return story_of(
            session,
            row,
            served_by=serving_acks.said_of(session, row.version_id),
            kpis=None if ask is None else ask(row.domain),
            alarms=alarms_between(session, row.tenant_id, row.domain, row.published_at, row.left_at),
            memory=held_between(session, row.tenant_id, row.domain, row.published_at, row.left_at),
            choices=choices_between(session, row.tenant_id, row.domain, row.published_at, row.left_at),
        )


def _read(file: Path) -> dict[str, Any]:
    from personalization.errors import StoryError

    try:
        story = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise StoryError(f"{file.name} cannot be read as JSON; write it with --json again") from error
    if not isinstance(story, dict):
        raise StoryError(f"{file.name} is no story of a version; write it with --json again")
    return story


def _own_keys(settings: Settings | None) -> list[bytes]:
    from streams.processes.keys import trusted_keys

    return [] if settings is None else trusted_keys(settings)


def _key(text: str) -> bytes:
    from personalization.errors import StoryError

    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise StoryError("a public key is 64 hexadecimal digits; `discreet adapters public-key` writes it")
    return key
