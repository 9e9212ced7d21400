"""Export one version for machines without a network, out of the registry and the artifact store."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from personalization.adapters.signing import ManifestSigner, signing_seed
from personalization.registry.queries import find_version, read_version
from personalization.training.base.directory import bundled_file
from streams.client import AdapterCache, AdapterVersionV1
from streams.processes.bridge import BUNDLED
from streams.serving.engines.edge import Exported, export
from streams.serving.engines.install import llamacpp_command
from streams.serving.fetching import fetchers
from streams.storage.schema import current_session

if TYPE_CHECKING:
    from streams.settings import Settings


def edge_export(settings: Settings, name: str, target: Path, *, base: Path | None, engine: str) -> Exported:
    """Export a version that the registry knows; its files are fetched and checked as a server does.

    Args:
        settings: of the process; the master key's signature counts.
        name: served name.
        target: a directory that does not exist yet.
        base: base model as GGUF; None takes the bundled one.
        engine: where llama.cpp is; empty takes the bridge's.

    Raises:
        SettingsError: no master key or no llama.cpp is there.
        VersionNotFoundError: the registry does not know the version.
        AdapterRefusedError: its files or signature are not right, or the server does not answer as the manifest says.
    """
    command = llamacpp_command(engine or settings.bridge.engine)
    signer = ManifestSigner(signing_seed(settings.master_key_bytes()))
    with current_session(settings.database_url) as session:
        known = read_version(find_version(session, name))
    version = AdapterVersionV1.from_manifest_bytes(
        known.manifest.to_bytes(),
        uri=known.uri,
        key_id=known.signature.key_id,
        signature=known.signature.signature,
    )
    with tempfile.TemporaryDirectory(prefix="discreet-edge-") as folder:
        cache = AdapterCache(Path(folder), trusted_keys=[signer.public_key], fetchers=fetchers())
        adapter = cache.obtain(version)
        return export(version, adapter, base or bundled_file(BUNDLED), target, command=command)
