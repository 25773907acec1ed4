"""Run the server until it is told to stop."""

from __future__ import annotations

import uvicorn

from routerretriever.server.app import create_app
from routerretriever.server.settings import Settings


def serve(settings: Settings) -> None:
    """Listen until SIGINT or SIGTERM, then finish what was accepted."""
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
