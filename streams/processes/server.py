"""Wire the serving process from the settings: model, feed, artifact cache and HTTP."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from personalization.training.base.directory import fingerprint, resolve_base
from streams.broker.clients import client_broker
from streams.client import AdapterCache, AdapterFeed
from streams.contracts.manifest import BaseFingerprintV1
from streams.processes.public_keys import required_keys
from streams.serving.fetching import fetchers
from streams.serving.holder import AdapterHolder
from streams.serving.tokens import server_tokens
from streams.serving.web import ServingWeb
from streams.telemetry import logs

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable
    from pathlib import Path

    from pydantic import SecretStr

    from streams.settings import Settings

ENGINE = "peft"


def serve(settings: Settings, *, stop: threading.Event, on_ready: Callable[[int], None]) -> None:
    """Serve until ``stop`` is set; ``on_ready`` gets the port once requests are answered.

    Raises:
        SettingsError: no token or no public key is set, or one is not usable.
        BaseModelError: the base model cannot be loaded.
        BrokerUnreachableError: no broker answers.
    """
    logs.configure(settings.log)
    tokens = server_tokens(
        *(_secret(one) for one in (settings.serving.token, settings.serving.scoped_tokens))
    )
    keys = required_keys(settings.serving)

    from personalization.training.run.host import AdapterHost  # noqa: PLC0415  # seconds to import torch

    directory = resolve_base(settings.trainer.base_model, settings.state / "models")
    host = AdapterHost(directory, threads=settings.trainer.threads)
    with open_feed(settings, keys) as feed:
        cache = AdapterCache(
            settings.state / "serving", trusted_keys=keys, base=served_base(directory), fetchers=fetchers()
        )
        holder = AdapterHolder(feed, host, cache.obtain)
        web = ServingWeb(port=settings.serving.port, token=tokens, host=host, holdings=holder.holdings)
        with web:
            on_ready(web.port)
            holder.run(stop)


def _secret(value: SecretStr | None) -> str | None:
    return None if value is None else value.get_secret_value()


def open_feed(settings: Settings, keys: list[bytes]) -> AdapterFeed:
    """Return the feed over the configured broker, encrypted and logged in as the settings say.

    Raises:
        BrokerUnreachableError: no broker answers, or it does not let us in.
    """
    return AdapterFeed(
        client_broker(settings.broker),
        trusted_keys=keys,
        server_id=settings.serving.server_id,
        engine=ENGINE,
        seen=_seen(settings),
    )


def _seen(settings: Settings) -> Path:
    """Return the file of the highest epochs that this server has seen, its folder made."""
    folder = settings.state / "serving"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / "epochs.json"


def served_base(directory: Path) -> BaseFingerprintV1:
    """Return the fingerprint of the base in ``directory``, as manifests write it."""
    return BaseFingerprintV1(**asdict(fingerprint(directory)))
