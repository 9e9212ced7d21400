"""Adapter lines for tests of serving code: small signed artifacts, published the way the worker does it."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ...contracts.adapter import AdapterStateV1, PromptsV1, RolloutV1
from ...contracts.codec import Record, encode, tombstone
from ...contracts.envelope import new_envelope
from ...contracts.manifest import MANIFEST_FORMAT, AdapterVersionV1, canonical_json, signed_bytes
from ...contracts.signed_record import KEY_ID_HEADER, SIGNATURE_HEADER
from ...contracts.signed_record import signed_bytes as signed_record_bytes
from ...contracts.topics import ADAPTER_STATE
from ..producer import EventPublisher
from ..signatures import BASE, ORDER, Point, encode_point, key_id, multiply
from ..transport import Broker

SOURCE = "urn:discreet:fake-worker"
DIGEST = "sha256:" + 64 * "0"
ACTIVATION: dict[str, Any] = {
    "precision": "float32",
    "effect": 1.0,
    "tolerances": {"float32": 0.01, "float16": 0.05, "bfloat16": 0.2, "quantized": 0.3},
    "probes": [
        {
            "prompt": "Why does the moon have phases?",
            "completion": "The",
            "tokens": [1, 2, 3],
            "points": [
                {"after": 2, "tokens": [3, 4], "base": [-2.0, -2.0], "adapter": [-1.0, -1.0]},
                {"after": 3, "tokens": [5, 6], "base": [-2.0, -2.0], "adapter": [-1.0, -1.0]},
            ],
        }
    ],
}
"""What a fake server must measure: every watched token's log-probability moves from -2 to -1."""


class FakeSigner:
    """Signs manifests with a key made from a seed; for tests only, the key is no secret."""

    def __init__(self, seed: bytes = b"seed of a key for tests, 32 byte") -> None:
        digest = hashlib.sha512(seed).digest()
        # RFC 8032 §5.1.5: clear the three lowest bits and the highest, set the second highest.
        self._scalar = int.from_bytes(digest[:32], "little") & ((1 << 254) - 8) | (1 << 254)
        self._prefix = digest[32:]
        self.public_key = encode_point(multiply(self._scalar, BASE))

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature (RFC 8032 §5.1.6)."""
        nonce = int.from_bytes(hashlib.sha512(self._prefix + message).digest(), "little") % ORDER
        point: Point = multiply(nonce, BASE)
        encoded = encode_point(point)
        challenge = int.from_bytes(hashlib.sha512(encoded + self.public_key + message).digest(), "little")
        return encoded + ((nonce + challenge * self._scalar) % ORDER).to_bytes(32, "little")


class FakeLine:
    """One adapter line whose versions a test makes and publishes.

    Args:
        directory: where artifacts are written.
        line_ref: pseudonym of the line.
        signer: signs the manifests; give its ``public_key`` to the feed and the cache.
    """

    def __init__(
        self, directory: Path, *, line_ref: str = "000000000001", signer: FakeSigner | None = None
    ) -> None:
        self.line_ref = line_ref
        self.signer = signer or FakeSigner()
        self.epoch = 0
        self._directory = directory

    def version(
        self,
        number: int,
        *,
        files: dict[str, bytes] | list[dict[str, Any]] | None = None,
        **changes: Any,
    ) -> AdapterVersionV1:
        """Write a small artifact and return its description.

        Args:
            number: version along the line.
            files: the adapter's own files, by name; by default ones that no model takes. A list replaces the manifest's
                entries instead, whatever the files are.
            changes: manifest fields to replace, whole groups at a time.
        """
        if isinstance(files, list):
            changes["files"], files = files, None
        if files is None:
            config = canonical_json(
                {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}
            )
            weights = _safetensors(f"{self.line_ref}/{number}")
            files = {"adapter_config.json": config, "adapter_model.safetensors": weights}
        document: dict[str, Any] = {**_document(self.line_ref, number, files), **changes}
        manifest = canonical_json(document)
        digest = hashlib.sha256(manifest).hexdigest()
        place = self._directory.resolve() / digest
        place.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (place / name).write_bytes(content)
        return AdapterVersionV1.from_manifest_bytes(
            manifest,
            uri=place.as_uri(),
            key_id=key_id(self.signer.public_key),
            signature=base64.b64encode(self.signer.sign(signed_bytes(manifest))).decode(),
        )

    def publish(
        self,
        broker: str | Broker,
        version: AdapterVersionV1,
        *,
        epoch: int | None = None,
        candidate: AdapterVersionV1 | None = None,
        rollout: RolloutV1 | None = None,
        prompts: PromptsV1 | None = None,
    ) -> AdapterStateV1:
        """Make ``version`` the desired state; the epoch grows by one unless it is given.

        A ``candidate`` gets the share of subjects that ``rollout`` says; ``prompts`` are operators' templates.
        """
        self.epoch = self.epoch + 1 if epoch is None else epoch
        now = datetime.now(UTC)
        state = AdapterStateV1(
            line_ref=self.line_ref,
            epoch=self.epoch,
            adapter=version,
            candidate=candidate,
            rollout=rollout or RolloutV1(),
            prompts=prompts,
            updated_at=now,
        )
        envelope = new_envelope(
            event_id=f"{self.line_ref}-{self.epoch}",
            source=SOURCE,
            event_type=ADAPTER_STATE,
            time=now,
            sequence=self.epoch,
        )
        with EventPublisher(broker, source=SOURCE) as publisher:
            publisher.send_record(self._signed(encode(state, envelope)), envelope.id)
        return state

    def withdraw(self, broker: str | Broker, *, epoch: int | None = None) -> None:
        """Publish the tombstone of the line."""
        self.epoch = self.epoch + 1 if epoch is None else epoch
        event_id = f"{self.line_ref}-{self.epoch}"
        record = tombstone(
            self.line_ref, self.epoch, event_id=event_id, source=SOURCE, time=datetime.now(UTC)
        )
        with EventPublisher(broker, source=SOURCE) as publisher:
            publisher.send_record(self._signed(record), event_id)

    def _signed(self, record: Record) -> Record:
        signature = self.signer.sign(
            signed_record_bytes(record.topic, record.key, record.headers, record.value)
        )
        return record._replace(
            headers=[
                *record.headers,
                (KEY_ID_HEADER, key_id(self.signer.public_key).encode()),
                (SIGNATURE_HEADER, base64.b64encode(signature)),
            ]
        )


def _safetensors(text: str) -> bytes:
    data = hashlib.sha256(text.encode()).digest()  # eight float32 numbers that no one looks at
    header = json.dumps(
        {
            "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": {
                "dtype": "F32",
                "shape": [2, 4],
                "data_offsets": [0, len(data)],
            }
        }
    ).encode()
    return len(header).to_bytes(8, "little") + header + data


def _document(line_ref: str, number: int, files: dict[str, bytes]) -> dict[str, Any]:
    return {
        "format": MANIFEST_FORMAT,
        "line_ref": line_ref,
        "scope": "tenant",
        "version": number,
        "served_name": f"a-{line_ref}-v{number}",
        "created_at": "2026-01-01T00:00:00+00:00",
        "files": [
            {
                "path": name,
                "media_type": "application/octet-stream",
                "size": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
            }
            for name, content in files.items()
        ],
        "base": {
            "model_id": "tiny",
            "revision": "1",
            "config_digest": DIGEST,
            "weights_digest": DIGEST,
            "tokenizer_digest": DIGEST,
            "chat_template_digest": "",
            "architecture": "LlamaForCausalLM",
            "dtype": "float32",
        },
        "lora": {
            "family": "core",
            "rank": 2,
            "alpha": 2.0,
            "target_modules": ["q_proj"],
            "layers": [0],
            "trainable_parameters": 4,
            "dtype": "float32",
            "tensor_digest": DIGEST,
            "profile": "portable-lora-v1",
        },
        "privacy": {
            "unit": "user",
            "relation": "add_or_remove_one",
            "mechanism": "poisson-gaussian",
            "accountant": "rdp",
            "release_epsilon": 0.5,
            "cumulative_epsilon": 0.5 * number,
            "target_epsilon": 8,
            "delta": 1e-6,
            "noise_multiplier": 1.25,
            "sample_rate": 0.1,
            "steps": 100,
            "clipping_norm": 1.0,
            "contribution_bound": 4,
            "minimum_cohort": 10,
            "reservation_id": f"reservation-{number}",
            "ledger_entry_hash": DIGEST,
            "plan_digest": DIGEST,
            "noisy_cohort": None,
        },
        "evaluation": {"verdict": "accepted", "checks": [], "probes": [], "activation": ACTIVATION},
        "lineage": {
            "round_id": f"round-{number}",
            "period_index": number,
            "start": "zero",
            "start_version_id": None,
            "supersedes": None,
            "data_digest": DIGEST,
            "code_digest": DIGEST,
        },
    }
