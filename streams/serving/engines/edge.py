"""A directory that runs one version offline with llama.cpp: base, adapter, signed manifest, and how to ask it.

    base.gguf       the base model, copied
    adapter.gguf    the adapter, converted here from the verified files
    manifest.json   the signed manifest, with signature.json beside it
    prompt.jinja    the version's prompt template, where it has one
    README.md       the command that starts it, and what every request must say

Before it is called done it is started from there and asked as any server is: it must change as the manifest says.
"""

from __future__ import annotations

import json
import shutil
import uuid
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from personalization.adapters.decoding import PRESENCE_PENALTY
from streams.client import Measured, Proof, compare, readings
from streams.client.errors import AdapterUnprovenError
from streams.errors import SettingsError
from streams.serving.engines.gguf_lora import convert, read_gguf_base
from streams.serving.engines.llama_server import LlamaServer
from streams.serving.engines.llamacpp import ADAPTER, LlamaCppEngine

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from streams.client import AdapterVersionV1

BASE: Final = "base.gguf"
MANIFEST: Final = "manifest.json"
SIGNATURE: Final = "signature.json"
PROMPT: Final = "prompt.jinja"
_README: Final = """# {name}

Base `{base}` with the adapter `{name}`, for llama.cpp; nothing here needs a network.

    llama-server -m {base_file} --lora-scaled {adapter}:0 --host 127.0.0.1 --port 8080

Every request names the adapter, or the base answers. With the adapter a token that was said already
loses {penalty:g} nats, once, as gateways ask for it: small models repeat themselves otherwise.

    curl http://127.0.0.1:8080/v1/chat/completions -H 'Content-Type: application/json' \\
      -d '{{"messages": [{{"role": "user", "content": "Hello"}}], "lora": [{{"id": 0, "scale": 1.0}}],
           "presence_penalty": {penalty:g}}}'

`manifest.json` says what it cost and how it was judged; it is signed (`signature.json`, Ed25519). When it was
exported, the server above was asked for the next tokens of {probes} public texts: with the adapter they changed by
{effect:.3f} nats on average, {error:.3f} away from what the manifest says (allowed for this file: {tolerance:g}).
"""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was made, and what the server said when it was asked."""

    directory: Path
    measured: Measured
    precision: str


def export(
    version: AdapterVersionV1, adapter: Path, base: Path, target: Path, *, command: Sequence[str]
) -> Exported:
    """Make the directory; it appears whole and proved, or not at all.

    Args:
        version: whose signature and files were checked.
        adapter: directory of its verified files.
        base: the base model as GGUF.
        target: a directory that does not exist yet.
        command: program and arguments that start llama.cpp's server, up to its model.

    Raises:
        SettingsError: the target is there already, or the base is none that adapters are made for.
        AdapterMisfitError: the adapter does not fit the base.
        AdapterUnprovenError: the server does not answer as the manifest says.
        EngineLoadError: llama.cpp does not take the file.
    """
    if target.exists():
        raise SettingsError(f"{target} is there already; name a directory that is not")
    found = read_gguf_base(base)
    stage = target.with_name(f".{uuid.uuid4().hex}.part")
    stage.mkdir(parents=True)
    try:
        shutil.copyfile(base, stage / BASE)
        convert(adapter, stage / ADAPTER, found)
        measured = _asked(version, adapter, stage, command, found.precision)
        (stage / MANIFEST).write_bytes(version.manifest.canonical_bytes())
        (stage / SIGNATURE).write_text(version.signature.model_dump_json(), encoding="utf-8")
        style = version.manifest.style
        if style is not None and style.prompt:
            (stage / PROMPT).write_text(style.prompt, encoding="utf-8")
        (stage / "README.md").write_text(_readme(version, measured, found.precision), encoding="utf-8")
        (stage / "measured.json").write_text(json.dumps(asdict(measured), indent=2) + "\n", encoding="utf-8")
        stage.rename(target)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return Exported(directory=target, measured=measured, precision=found.precision)


def _asked(
    version: AdapterVersionV1, adapter: Path, stage: Path, command: Sequence[str], precision: str
) -> Measured:
    activation = version.manifest.evaluation.activation
    if activation is None:
        raise AdapterUnprovenError("the version carries nothing to prove it with")
    scratch = stage / "trial"
    start = (*command, "-m", str(stage / BASE))
    server, trial = (LlamaServer(start, port=0, key="", log=stage / "trial.log") for _ in range(2))
    engine = LlamaCppEngine(server, trial, base=read_gguf_base(stage / BASE), folder=scratch, capacity=1)
    try:
        engine.load(version.served_name, adapter)
        engine.settle()
        asked = readings(activation)
        base = engine.next_log_probabilities(asked, name=None)
        adapted = engine.next_log_probabilities(asked, name=version.served_name)
        same = (scratch / version.served_name / ADAPTER).read_bytes() == (stage / ADAPTER).read_bytes()
    finally:
        engine.close()
        shutil.rmtree(scratch, ignore_errors=True)
        (stage / "trial.log").unlink(missing_ok=True)
    measured = compare(activation, base, adapted, precision=precision)
    if measured.proof is not Proof.PROVED or not same:
        raise AdapterUnprovenError("the version changes too little to tell it from the base here")
    return measured


def _readme(version: AdapterVersionV1, measured: Measured, precision: str) -> str:
    activation = version.manifest.evaluation.activation
    assert activation is not None  # or it would not have been asked
    return _README.format(
        name=version.served_name,
        base=version.manifest.base.model_id,
        base_file=BASE,
        adapter=ADAPTER,
        probes=len(activation.probes),
        effect=measured.effect,
        error=measured.error,
        tolerance=activation.tolerances[precision],
        penalty=PRESENCE_PENALTY,
    )
