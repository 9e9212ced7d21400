"""The demonstration's own settings: a state directory, fresh secrets, free ports, all on the loopback."""

from __future__ import annotations

import base64
import os
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

from personalization.adapters.signing import ManifestSigner
from personalization.training.child.threads import WAITING
from privacy.keys.service import new_master_key

# A user whose consent never comes is refused after this long; consents are published first, so it is enough.
CONSENT_WAIT_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class DemoEnvironment:
    """What the child processes are given."""

    state: Path
    broker: str
    base_model: Path
    master_key: str
    adapter_key: str
    worker_port: int
    serving_port: int
    token: str

    def public_key(self) -> str:
        """Return the key (hexadecimal) whose signatures the server is to trust: the trainer's."""
        return ManifestSigner(base64.b64decode(self.adapter_key)).public_key.hex()

    def of_the_trainer(self) -> dict[str, str]:
        """Return what the trainer is given besides: the key that adapters are signed with."""
        return {"DISCREET_SIGNING__ADAPTER_KEY": self.adapter_key}

    def variables(self) -> dict[str, str]:
        """Return the environment of the child processes: this one's, without its own DISCREET_ settings."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DISCREET_")}
        return {
            **kept,
            "PYTHONPATH": os.pathsep.join(filter(None, (str(_root()), kept.get("PYTHONPATH", "")))),
            "HF_HUB_OFFLINE": "1",  # everything is on this machine; nothing is to ask a hub
            **{name: kept.get(name, value) for name, value in WAITING.items()},
            "DISCREET_STATE": str(self.state),
            "DISCREET_MASTER_KEY": self.master_key,
            "DISCREET_BROKER__BOOTSTRAP": self.broker,
            "DISCREET_BROKER__EMBEDDED": "true",
            "DISCREET_INGEST__CONSENT_WAIT_SECONDS": str(CONSENT_WAIT_SECONDS),
            "DISCREET_HTTP__PORT": str(self.worker_port),
            "DISCREET_HTTP__TOKEN": self.token,
            "DISCREET_TRAINER__BASE_MODEL": str(self.base_model),
            # Nobody in it is real: whoever runs it may ask for any ε, and its tenants may be of any size.
            "DISCREET_CEILINGS__PERIOD_EPSILON": "64",
            "DISCREET_CEILINGS__LIFETIME_EPSILON": "64",
            "DISCREET_CEILINGS__DELTA": "1e-3",
            "DISCREET_CEILINGS__MINIMUM_COHORT": "1",
            "DISCREET_SERVING__PORT": str(self.serving_port),
            "DISCREET_SERVING__TOKEN": self.token,
            "DISCREET_SERVING__PUBLIC_KEYS": self.public_key(),
            "DISCREET_LOG__LEVEL": "info",
            "DISCREET_LOG__FORMAT": "json",
        }


def new_secrets() -> tuple[str, str, str]:
    """Return a fresh master key and a fresh key that adapters are signed with (base64), and a fresh HTTP token."""
    return new_master_key(), new_master_key(), secrets.token_urlsafe(32)


def free_port() -> int:
    """Return a port of the loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def model_cache() -> Path:
    """Return where converted base models are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "discreet" / "models"


def _root() -> Path:
    """Return the directory that the packages are imported from."""
    return Path(__file__).resolve().parents[2]
