"""Run llama.cpp's own HTTP server out of the package xllamacpp, with those options of ``llama-server`` that we use.

It runs in the engine's own environment, which has nothing of ours, so it imports the engine and the standard library
alone: ``python xllamacpp_server.py -m BASE.gguf --port 8080 --lora-scaled ADAPTER.gguf:0``. The key comes by the
environment (``LLAMA_API_KEY``), because other users of the machine see arguments.
"""

from __future__ import annotations

import argparse
import os
import signal
import threading


def main() -> None:
    """Serve until a signal comes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("-c", "--ctx-size", type=int, default=4096)
    parser.add_argument("-np", "--parallel", type=int, default=2)
    parser.add_argument("-t", "--threads", type=int, default=1)
    parser.add_argument("--lora-scaled", action="append", default=[], metavar="FILE:SCALE")
    options = parser.parse_args()

    import xllamacpp  # type: ignore[import-not-found]  # noqa: PLC0415  # only the engine's environment has it

    params = xllamacpp.CommonParams()
    params.model.path = options.model
    params.hostnames, params.port = [options.host], options.port
    params.n_ctx, params.n_parallel = options.ctx_size, options.parallel
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    params.endpoint_slots = True
    params.ui = False
    params.api_keys = [os.environ["LLAMA_API_KEY"]] if os.environ.get("LLAMA_API_KEY") else []
    adapters = []
    for entry in options.lora_scaled:
        path, _, scale = entry.rpartition(":")
        adapters.append(xllamacpp.CommonAdapterLoraInfo(path, float(scale)))
    params.lora_adapters = adapters
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    server = xllamacpp.Server(params)
    print(f"listening on {server.listening_address}", flush=True)  # noqa: T201  # its whole output
    stop.wait()
    os._exit(0)  # the server's threads end with the process; nothing of it is kept


if __name__ == "__main__":
    main()
