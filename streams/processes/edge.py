"""Export one version for machines without a network, out of the registry and the artifact store."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from personalization.registry.queries import find_version, read_version
from personalization.training.base.directory import bundled_file
from streams.client import AdapterCache, AdapterVersionV1
from streams.processes.bridge import BUNDLED
from streams.processes.keys import adapter_signer, earlier_public_keys
from streams.serving.engines.edge import Exported, export
from streams.serving.engines.install import llamacpp_command
from streams.serving.fetching import fetchers
from streams.storage.schema import current_session

if TYPE_CHECKING:
    from streams.settings import Settings


def edge_export(settings: Settings, name: str, target: Path, *, base: Path | None, engine: str) -> Exported:
    """Export a version that the registry knows; its files are fetched and checked as a server does.

    Args:
        settings: of the process; signatures of its key and of those before it count.
        name: served name.
        target: a directory that does not exist yet.
        base: base model as GGUF; None takes the bundled one.
        engine: where llama.cpp is; empty takes the bridge's.

    Raises:
        SettingsError: no llama.cpp is there, or the key that adapters are signed with cannot be read.
        VersionNotFoundError: the registry does not know the version.
        AdapterRefusedError: its files or signature are not right, or the server does not answer as the manifest says.
    """
    command = llamacpp_command(engine or settings.bridge.engine)
    trusted = [adapter_signer(settings).public_key]
    trusted += [bytes.fromhex(key) for key in earlier_public_keys(settings).values()]
    with current_session(settings.database_url) as session:
        known = read_version(find_version(session, name))
    version = AdapterVersionV1.from_manifest_bytes(
        known.manifest.to_bytes(),
        uri=known.uri,
        key_id=known.signature.key_id,
        signature=known.signature.signature,
    )
    with tempfile.TemporaryDirectory(prefix="discreet-edge-") as folder:
        cache = AdapterCache(Path(folder), trusted_keys=trusted, fetchers=fetchers())
        adapter = cache.obtain(version)
        return export(version, adapter, base or bundled_file(BUNDLED), target, command=command)
