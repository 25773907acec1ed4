"""Run the server until it is told to stop."""

from __future__ import annotations

import logging

import uvicorn

from routerretriever.server.app import create_app
from routerretriever.server.settings import Settings


def serve(settings: Settings) -> None:
    """Listen until SIGINT or SIGTERM, then finish what was accepted."""
    log_to_stderr()
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_level="info",
        access_log=False,  # /metrics counts requests
        server_header=False,
        timeout_graceful_shutdown=settings.drain_seconds,
        timeout_keep_alive=75,
    )


def log_to_stderr() -> None:
    """Say what the server has to say, where nobody has set up logging."""
    log = logging.getLogger("routerretriever.server")
    log.setLevel(logging.INFO)
    if not log.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
        log.addHandler(handler)
