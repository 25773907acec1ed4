"""What notes where the time of requests goes, as a server's settings say."""

from __future__ import annotations

from routerretriever.server.settings import Settings
from routerretriever.server.spans import Spans


def open_spans(settings: Settings) -> Spans:
    """Return what notes spans; nothing of OpenTelemetry is loaded unless settings ask for it.

    Raises:
        MissingExtraError: the ``tracing`` extra is not installed.
    """
    if settings.trace is None:
        return Spans()
    from routerretriever.server.tracing import Tracing

    return Tracing(settings.trace, settings.replica)
