"""Every topic as data: what it is for, how it is keyed, kept and partitioned, and who may touch it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

DAY_SECONDS = 86_400


class Key(StrEnum):
    """What the record key of a topic is made of."""

    TENANT_USER = "tenant/user"
    TENANT_USER_PURPOSE = "tenant/user/purpose"
    ADAPTER_LINE = "adapter line"
    AS_SOURCE = "as source"
    ANCHORED = "group/what is anchored"
    PSEUDONYM = "group/tenant/pseudonym"


class Cleanup(StrEnum):
    """How a topic sheds old records (Kafka's ``cleanup.policy``)."""

    DELETE = "delete"
    COMPACT = "compact"


class Role(StrEnum):
    """Who reads or writes a topic; an access rule names a principal for each role."""

    PRODUCT = "product"
    WORKER = "worker"
    SERVING = "serving"
    GATEWAY = "gateway"
    OPERATOR = "operator"


@dataclass(frozen=True, kw_only=True)
class Topic:
    """One topic of the contract.

    Attributes:
        name: full name, ending in the major version of its contract.
        key: what the record key is made of.
        cleanup: delete by age, or keep the last record of each key.
        retention_seconds: how long a record is kept; ``None`` keeps it for ever. For a compacted topic, how
            long a tombstone stays readable.
        partitions: recommended number; a worker group scales up to it.
        event_types: the ``ce_type`` values that may appear.
        writers: roles that need WRITE.
        readers: roles that need READ.
        holds_personal_data: whether records name a user or carry a user's text.
        compaction_seconds: of a compacted topic, how long a replaced record stays at most.
        max_message_bytes: largest record batch the broker should accept.
        what: one sentence for people.
    """

    name: str
    key: Key
    cleanup: Cleanup
    retention_seconds: int | None
    partitions: int
    event_types: tuple[str, ...]
    writers: tuple[Role, ...]
    readers: tuple[Role, ...]
    holds_personal_data: bool
    what: str
    compaction_seconds: int = DAY_SECONDS
    max_message_bytes: int = 1_048_576

    def configs(self, *, replication: int = 1) -> dict[str, str]:
        """Return the broker settings this topic must have, with ``replication`` copies of each partition.

        From three copies on, two must confirm a write (``min.insync.replicas=2``), so that one lost broker
        loses no acknowledged record.
        """
        configs = {
            "cleanup.policy": self.cleanup.value,
            "max.message.bytes": str(self.max_message_bytes),
            "min.insync.replicas": "2" if replication >= 3 else "1",
        }
        milliseconds = "-1" if self.retention_seconds is None else str(self.retention_seconds * 1000)
        if self.cleanup is Cleanup.COMPACT:
            configs["delete.retention.ms"] = milliseconds
            # A bound on how long a replaced or withdrawn record stays readable.
            configs["max.compaction.lag.ms"] = str(self.compaction_seconds * 1000)
        else:
            configs["retention.ms"] = milliseconds
        return configs


INTERACTION_RECORDED = "interaction.recorded.v1"
CONSENT_GRANTED = "consent.granted.v1"
CONSENT_WITHDRAWN = "consent.withdrawn.v1"
ERASURE_REQUESTED = "erasure.requested.v1"
ERASURE_COMPLETED = "erasure.completed.v1"
ADAPTER_STATE = "adapter.state.v1"
ADAPTER_PUBLISHED = "adapter.published.v1"
ADAPTER_ROLLOUT_ADVANCED = "adapter.rollout-advanced.v1"
ADAPTER_PROMOTED = "adapter.promoted.v1"
ADAPTER_ROLLED_BACK = "adapter.rolled-back.v1"
ADAPTER_WITHDRAWN = "adapter.withdrawn.v1"
ADAPTER_DECLINED = "adapter.declined.v1"
ADAPTER_DRIFTED = "adapter.drifted.v1"
ADAPTER_PROMPT_MOVED = "adapter.prompt-moved.v1"
ADAPTER_TERMS_CHANGED = "adapter.terms-changed.v1"
ADAPTER_MEMORY_CHANGED = "adapter.memory-changed.v1"
SERVING_LOADED = "serving.loaded.v1"
SERVING_VERIFIED = "serving.verified.v1"
SERVING_FAILED = "serving.failed.v1"
SERVING_UNLOADED = "serving.unloaded.v1"

ANCHOR_TENANT = "anchor.tenant.v1"
ANCHOR_OFFSETS = "anchor.offsets.v1"
USER_ERASED = "user.erased.v1"

INTERACTIONS = Topic(
    name="discreet.interactions.v1",
    key=Key.TENANT_USER,
    cleanup=Cleanup.DELETE,
    retention_seconds=7 * DAY_SECONDS,
    partitions=12,
    event_types=(INTERACTION_RECORDED,),
    writers=(Role.PRODUCT, Role.GATEWAY),
    readers=(Role.WORKER,),
    holds_personal_data=True,
    what="One answer shown to a user and what the user did with it.",
)
CONSENT = Topic(
    name="discreet.consent.v1",
    # Not tenant/user: compaction keeps the last record of a key, so with it a withdrawal for one purpose
    # would remove the record of a grant for another.
    key=Key.TENANT_USER_PURPOSE,
    cleanup=Cleanup.COMPACT,
    retention_seconds=7 * DAY_SECONDS,
    partitions=12,
    event_types=(CONSENT_GRANTED, CONSENT_WITHDRAWN),
    writers=(Role.PRODUCT, Role.WORKER),  # an erasure sends tombstones
    readers=(Role.WORKER, Role.GATEWAY),
    holds_personal_data=True,
    what="A user agreed, or no longer agrees, to one purpose under one version of the notice.",
)
ERASURES = Topic(
    name="discreet.erasures.v1",
    key=Key.TENANT_USER,
    cleanup=Cleanup.DELETE,
    retention_seconds=30 * DAY_SECONDS,
    partitions=12,
    event_types=(ERASURE_REQUESTED, ERASURE_COMPLETED),
    writers=(Role.PRODUCT, Role.WORKER),
    readers=(Role.PRODUCT, Role.WORKER, Role.GATEWAY),
    holds_personal_data=True,
    what="A user asks to be erased; answered with a certificate.",
)
ADAPTER_EVENTS = Topic(
    name="discreet.adapter-events.v1",
    key=Key.ADAPTER_LINE,
    cleanup=Cleanup.DELETE,
    retention_seconds=None,
    partitions=6,
    event_types=(
        ADAPTER_PUBLISHED,
        ADAPTER_ROLLOUT_ADVANCED,
        ADAPTER_PROMOTED,
        ADAPTER_ROLLED_BACK,
        ADAPTER_WITHDRAWN,
        ADAPTER_DECLINED,
        ADAPTER_DRIFTED,
        ADAPTER_PROMPT_MOVED,
        ADAPTER_TERMS_CHANGED,
        ADAPTER_MEMORY_CHANGED,
    ),
    writers=(Role.WORKER,),
    readers=(Role.SERVING, Role.PRODUCT, Role.OPERATOR),
    holds_personal_data=False,
    what="Everything that happened to an adapter, for audit.",
)
ADAPTERS = Topic(
    name="discreet.adapters.v1",
    key=Key.ADAPTER_LINE,
    cleanup=Cleanup.COMPACT,
    retention_seconds=7 * DAY_SECONDS,
    partitions=6,
    event_types=(ADAPTER_STATE,),
    writers=(Role.WORKER,),
    readers=(Role.SERVING, Role.GATEWAY, Role.OPERATOR),
    holds_personal_data=False,
    what="What servers should hold now; a server that starts needs only this. A tombstone withdraws a line.",
)
SERVING_ACKS = Topic(
    name="discreet.serving-acks.v1",
    key=Key.ADAPTER_LINE,
    cleanup=Cleanup.DELETE,
    retention_seconds=30 * DAY_SECONDS,
    partitions=6,
    event_types=(SERVING_LOADED, SERVING_VERIFIED, SERVING_FAILED, SERVING_UNLOADED),
    writers=(Role.SERVING,),
    readers=(Role.WORKER, Role.OPERATOR),
    holds_personal_data=False,
    what="What servers did with an adapter version.",
)
DEAD_LETTERS = Topic(
    name="discreet.interactions.dlq.v1",
    key=Key.AS_SOURCE,
    cleanup=Cleanup.DELETE,
    # It holds the same personal data as the topics it is fed from, hence the same retention as interactions.
    retention_seconds=7 * DAY_SECONDS,
    partitions=12,
    event_types=(),
    writers=(Role.WORKER,),
    readers=(Role.OPERATOR,),
    holds_personal_data=True,
    what="What could not be accepted: original key, value and headers, plus reason and origin.",
)

ANCHOR = Topic(
    name="discreet.anchor.v1",
    key=Key.ANCHORED,
    cleanup=Cleanup.COMPACT,
    retention_seconds=7 * DAY_SECONDS,
    partitions=1,
    event_types=(ANCHOR_TENANT, ANCHOR_OFFSETS),
    writers=(Role.WORKER, Role.OPERATOR),
    readers=(Role.WORKER, Role.OPERATOR),
    holds_personal_data=False,
    compaction_seconds=3_600,  # it is read from its start by every process
    what="Heads of ledgers and lines, and consumed offsets: what a restored database is compared with.",
)
ERASED = Topic(
    name="discreet.erased.v1",
    key=Key.PSEUDONYM,
    cleanup=Cleanup.COMPACT,
    retention_seconds=7 * DAY_SECONDS,
    partitions=1,
    event_types=(USER_ERASED,),
    writers=(Role.WORKER, Role.OPERATOR),
    readers=(Role.WORKER, Role.OPERATOR),
    holds_personal_data=True,
    what="Which users were erased, by pseudonym: a restored backup erases them again.",
)

TOPICS: tuple[Topic, ...] = (
    INTERACTIONS,
    CONSENT,
    ERASURES,
    ADAPTER_EVENTS,
    ADAPTERS,
    SERVING_ACKS,
    DEAD_LETTERS,
    ANCHOR,
    ERASED,
)
