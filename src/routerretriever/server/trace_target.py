"""Where spans are sent, as the command line or the environment says."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from routerretriever.errors import ServerError

CONSOLE, ENVIRONMENT = "console", "environment"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_HTTP = "http/protobuf"


def trace_target(given: str | None, environ: Mapping[str, str]) -> str | None:
    """Return where spans are sent; ``None`` makes none.

    Args:
        given: URL of a collector, ``console``, or ``None`` to do as the environment says.
        environ: environment variables; those of OpenTelemetry count.

    Returns:
        ``console``, ``environment`` for an exporter that the environment describes, or a URL with a path.

    Raises:
        ServerError: it is no URL, or the environment asks for an exporter that is not here.
    """
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    if given is not None:
        return given if given == CONSOLE else _collector(given)
    exporter = environ.get("OTEL_TRACES_EXPORTER", "").strip()
    if exporter == "none":
        return None
    if exporter == CONSOLE:
        return CONSOLE
    if exporter not in ("", "otlp"):
        raise ServerError(
            f"OTEL_TRACES_EXPORTER is '{exporter}', but spans can only be sent by otlp, or written to the "
            "console. Set it to one of these, or to none."
        )
    if not exporter and not any(environ.get(name) for name in _ENDPOINTS):
        return None
    protocol = next((environ[name] for name in _PROTOCOLS if environ.get(name)), _HTTP)
    if protocol != _HTTP:
        raise ServerError(
            f"The environment asks for spans by OTLP over {protocol}, but they are sent over {_HTTP}. Set "
            f"{_PROTOCOLS[0]}={_HTTP}, or OTEL_TRACES_EXPORTER=none."
        )
    return ENVIRONMENT


def _collector(url: str) -> str:
    """Return the URL of a collector with the path that OTLP has by default."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ServerError(
            f"'{url}' is no place for spans. Give the URL of a collector, such as http://127.0.0.1:4318, or "
            "console."
        )
    return parts._replace(path="/v1/traces").geturl() if parts.path in ("", "/") else url
