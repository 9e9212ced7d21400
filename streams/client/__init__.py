"""The client of discreet: publish what users did with answers, and follow the adapters that come of it.

``InteractionPublisher``, ``ConsentPublisher`` and ``ErasurePublisher`` are for products, ``AdapterFeed`` is
for serving systems, ``testing.InMemoryBroker`` for the tests of both. See README.md for examples that run.
"""

from __future__ import annotations

from ..contracts.ack import AckStatus, ServingAckV1
from ..contracts.adapter import AdapterStateV1, PromptTemplateV1
from ..contracts.consent import ConsentPurpose, ConsentV1
from ..contracts.erasure import ErasureCertificateV1, ErasureCompletedV1, ErasureReason, ErasureRequestedV1
from ..contracts.interaction import Accepted, Correction, Edited, InteractionV1, Outcome, Rating, Rejected
from ..contracts.manifest import AdapterVersionV1, ManifestV1
from .activation import Measured, Proof, Reading, compare, readings
from .adapter_cache import AdapterCache
from .adapter_feed import AdapterFeed, AdapterUpdate, Refusal, UpdateKind
from .async_producer import AsyncInteractionPublisher
from .disk_queue import DiskQueue, HandedOver
from .errors import (
    AdapterInactiveError,
    AdapterRefusedError,
    AdapterUnprovenError,
    ArtifactFetchError,
    BrokerUnreachableError,
    BufferFullError,
    ClientError,
    ClosedError,
    DeliveryError,
    DigestMismatchError,
    EventRefusedError,
    PositionError,
    PrototypeError,
    RewoundLineError,
    SignatureInvalidError,
    UnsafeArtifactError,
    WrongAdapterError,
)
from .kafka_broker import KafkaBroker, Security
from .positions import FilePositions
from .producer import (
    AckPublisher,
    ConsentPublisher,
    Delivery,
    ErasurePublisher,
    EventPublisher,
    InteractionPublisher,
)

__all__ = [
    "Accepted",
    "AckPublisher",
    "AckStatus",
    "AdapterCache",
    "AdapterFeed",
    "AdapterInactiveError",
    "AdapterRefusedError",
    "AdapterStateV1",
    "AdapterUnprovenError",
    "AdapterUpdate",
    "AdapterVersionV1",
    "ArtifactFetchError",
    "AsyncInteractionPublisher",
    "BrokerUnreachableError",
    "BufferFullError",
    "ClientError",
    "ClosedError",
    "ConsentPublisher",
    "ConsentPurpose",
    "ConsentV1",
    "Correction",
    "Delivery",
    "DeliveryError",
    "DigestMismatchError",
    "DiskQueue",
    "Edited",
    "ErasureCertificateV1",
    "ErasureCompletedV1",
    "ErasurePublisher",
    "ErasureReason",
    "ErasureRequestedV1",
    "EventPublisher",
    "EventRefusedError",
    "FilePositions",
    "HandedOver",
    "InteractionPublisher",
    "InteractionV1",
    "KafkaBroker",
    "ManifestV1",
    "Measured",
    "Outcome",
    "PositionError",
    "PromptTemplateV1",
    "Proof",
    "PrototypeError",
    "Rating",
    "Reading",
    "Refusal",
    "Rejected",
    "RewoundLineError",
    "Security",
    "ServingAckV1",
    "SignatureInvalidError",
    "UnsafeArtifactError",
    "UpdateKind",
    "WrongAdapterError",
    "compare",
    "readings",
]
