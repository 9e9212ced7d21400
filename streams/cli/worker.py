"""``discreet worker``: ingest, open due rounds, relay events, until stopped."""

from __future__ import annotations


def command() -> None:
    """Ingest events, open due rounds and relay adapter events until stopped.

    Settings: DISCREET_BROKER__…, DISCREET_DATABASE__URL, DISCREET_MASTER_KEY, DISCREET_INGEST__…,
        DISCREET_HTTP__….
    """
    import asyncio

    from streams.processes import wiring as bootstrap
    from streams.processes.worker import run_worker
    from streams.settings import load_settings
    from streams.telemetry import logs, tracing

    settings = load_settings()
    logs.configure(settings.log)
    tracing.configure()
    services = bootstrap.build(settings)
    try:
        asyncio.run(run_worker(services))
    finally:
        services.close()
