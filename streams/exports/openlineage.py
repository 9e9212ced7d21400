"""A version as OpenLineage run events: what a round read, what it ran as, and the version that came of it.

Needs the extra ``lineage`` (OpenLineage's own client, whose classes check what they are given).
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from privacy.boundary.marks import Kind, leaves
from privacy.boundary.register import BOUNDARY
from streams.errors import ExportError
from streams.exports.facts import WITHDRAWN, producer

try:
    import attr
    from openlineage.client import event_v2, facet_v2
    from openlineage.client.serde import Serde
    from openlineage.client.transport.http import HttpConfig, HttpTransport
except ImportError as error:  # the extra is not installed
    raise ExportError(
        "OpenLineage's client is not installed; install discreet with the extra lineage (discreet[lineage])"
    ) from error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streams.exports.facts import Exported

NAMESPACE: Final = "discreet"
SECONDS: Final = 10.0
RETRY: Final = {"total": 2, "connect": 2, "read": 2}


@attr.define
class OffsetsFacet(facet_v2.InputDatasetFacet):  # type: ignore[misc]  # its package has no types here
    """Up to where each partition of a topic had had its effect when the round read."""

    partitions: list[dict[str, int]] = attr.field(factory=list)


@attr.define
class ReceiptFacet(facet_v2.DatasetFacet):  # type: ignore[misc]  # as above
    """What the version cost, and the digests that prove it: of the plan, and of the ledger's commit."""

    privacy: dict[str, Any] = attr.field(factory=dict)
    signed_receipt: bool = False


@attr.define
class GateFacet(facet_v2.DatasetFacet):  # type: ignore[misc]  # as above
    """Checks that let the version pass: of released weights and public text."""

    checks: list[dict[str, Any]] = attr.field(factory=list)


@attr.define
class RolloutFacet(facet_v2.DatasetFacet):  # type: ignore[misc]  # as above
    """Where the version stands in the registry and in its rollout, and what servers say."""

    state: str = ""
    rollout: dict[str, Any] | None = None
    servers: dict[str, int] = attr.field(factory=dict)


def events(one: Exported, *, brokers: str) -> list[Any]:
    """Return the run's start and its completion.

    Args:
        one: the version.
        brokers: where its topics are, as ``host:port``.

    Raises:
        BoundaryError: an event would tell something that has no mark.
    """
    event_v2.set_producer(producer())
    made = [_event(one, state, brokers) for state in (event_v2.RunState.START, event_v2.RunState.COMPLETE)]
    for event in made:
        BOUNDARY.require(Kind.LINEAGE_EXPORT, leaves(Serde.to_dict(event)))
    return made


def lines(one: Exported, *, brokers: str) -> Iterator[str]:
    """Yield each event as a line of JSON."""
    for event in events(one, brokers=brokers):
        yield Serde.to_json(event)


def send(one: Exported, url: str, *, brokers: str, api_key: str | None = None) -> None:
    """Send the events to a server that speaks OpenLineage's HTTP.

    Raises:
        ExportError: it did not take them.
    """
    auth = {} if api_key is None else {"auth": {"type": "api_key", "apiKey": api_key}}
    made = events(one, brokers=brokers)
    try:
        transport = HttpTransport(
            HttpConfig.from_dict({"url": url, "timeout": SECONDS, "retry": RETRY, **auth})
        )
        for event in made:
            transport.emit(event)
        transport.close()
    except Exception as error:  # noqa: BLE001  # of requests, of the client's own, by no common class
        raise ExportError(
            f"the OpenLineage server did not take the events ({type(error).__name__}); check its address, and "
            "OPENLINEAGE_API_KEY where it wants a key"
        ) from None


def _event(one: Exported, state: Any, brokers: str) -> Any:
    done = state is event_v2.RunState.COMPLETE
    start = one.scheduled_for or one.published_at
    job_type = facet_v2.job_type_job.JobTypeJobFacet(
        processingType="BATCH", integration="DISCREET", jobType="TRAINING_ROUND"
    )
    return event_v2.RunEvent(
        eventType=state,
        eventTime=one.published_at if done else start,
        producer=producer(),
        run=event_v2.Run(
            runId=one.round_id or str(uuid.uuid5(uuid.NAMESPACE_URL, one.version_id)),
            facets={"nominalTime": facet_v2.nominal_time_run.NominalTimeRunFacet(nominalStartTime=start)},
        ),
        job=event_v2.Job(
            namespace=NAMESPACE, name=f"{one.tenant}/{one.domain}", facets={"jobType": job_type}
        ),
        inputs=_inputs(one, brokers),
        outputs=[_output(one)] if done else [],
    )


def _inputs(one: Exported, brokers: str) -> list[Any]:
    by_topic: dict[str, list[dict[str, int]]] = defaultdict(list)
    for place in one.inputs:
        by_topic[place["topic"]].append(
            {"partition": place["partition"], "next_offset": place["next_offset"]}
        )
    return [
        event_v2.InputDataset(
            namespace=f"kafka://{brokers}",
            name=topic,
            inputFacets={"discreet_offsets": OffsetsFacet(partitions=places)},
        )
        for topic, places in sorted(by_topic.items())
    ]


def _output(one: Exported) -> Any:
    change = facet_v2.lifecycle_state_change_dataset
    left = one.state == WITHDRAWN
    return event_v2.OutputDataset(
        namespace=NAMESPACE,
        name=f"adapters/{one.line_ref}",
        facets={
            "version": facet_v2.dataset_version_dataset.DatasetVersionDatasetFacet(
                datasetVersion=one.version_id
            ),
            "lifecycleStateChange": change.LifecycleStateChangeDatasetFacet(
                lifecycleStateChange=change.LifecycleStateChange.DROP
                if left
                else change.LifecycleStateChange.CREATE
            ),
            "discreet_receipt": ReceiptFacet(privacy=dict(one.privacy), signed_receipt=one.receipt),
            "discreet_gate": GateFacet(checks=[dict(check) for check in one.checks]),
            "discreet_rollout": RolloutFacet(
                state=one.state,
                rollout=None if one.rollout is None else dict(one.rollout),
                servers=dict(one.servers),
            ),
        },
    )
