"""Spans of OpenTelemetry: of each request, and of queue, encode, route and search in it.

No span has the text of a query, document, filter or error.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from starlette.datastructures import Headers
from starlette.types import Scope

from routerretriever.errors import MissingExtraError
from routerretriever.server.encode_batch import Encoded, ForwardPass
from routerretriever.server.spans import Attribute, Finish, Spans
from routerretriever.server.trace_target import CONSOLE, ENVIRONMENT
from routerretriever.version import __version__

try:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import (
        BatchSpanProcessor,
        ConsoleSpanExporter,
        SimpleSpanProcessor,
    )
    from opentelemetry.trace import Span, SpanKind, StatusCode, set_span_in_context
    from opentelemetry.trace.propagation.tracecontext import (
        TraceContextTextMapPropagator,
    )
except ImportError as error:
    raise MissingExtraError("tracing", error.name or "opentelemetry") from error

_TRACED = "/v1/"
_SERVICE = "routerretriever"


class Tracing(Spans):
    """Makes spans and sends them.

    A ``traceparent`` that comes with a request is the parent of its span. Sampling, the name of the service
    and the sizes of batches follow the environment variables of OpenTelemetry.

    Args:
        target: ``console``, ``environment`` or the URL of a collector; see
            :func:`routerretriever.server.trace_target.trace_target`.
        replica: this process's name where several answer as one.
    """

    def __init__(self, target: str, replica: str = "") -> None:
        self._provider = TracerProvider(resource=_resource(replica))
        if target == CONSOLE:
            self._provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=sys.stderr)))
        else:
            exporter = OTLPSpanExporter() if target == ENVIRONMENT else OTLPSpanExporter(endpoint=target)
            self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("routerretriever.server", __version__)
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def request(self, scope: Scope) -> Iterator[Finish]:
        if not scope["path"].startswith(_TRACED):
            yield _ignore
            return
        method = scope["method"]
        with self._tracer.start_as_current_span(
            method,
            context=self._propagator.extract(dict(Headers(scope=scope))),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": method},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:

            def finish(status: int) -> None:
                _finish_request(span, scope, status)

            yield finish

    def encoded(self, submitted: float, encoded: Sequence[Encoded]) -> None:
        passes: dict[ForwardPass, list[Encoded]] = {}
        for item in encoded:
            passes.setdefault(item.forward, []).append(item)
        begun = min(forward.started for forward in passes)
        self._past("queue", submitted, begun, {"texts": len(encoded)})
        for forward, items in passes.items():
            attributes: dict[str, Attribute] = {
                "texts": len(items),
                "batch_texts": forward.texts,
                "experts": _distinct(items),
                "tokens": sum(item.tokens for item in items),
            }
            span = self._past("encode", forward.started, forward.ended, attributes)
            if forward.routed_at is not None:
                routed = {name: attributes[name] for name in ("texts", "experts")}
                self._past("route", *forward.routed_at, routed, parent=span)

    @contextmanager
    def stage(self, name: str, **attributes: Attribute) -> Iterator[None]:
        with self._tracer.start_as_current_span(
            name,
            attributes=_named(attributes),
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except Exception as error:
                span.set_status(StatusCode.ERROR, type(error).__name__)
                raise

    def close(self) -> None:
        self._provider.shutdown()

    def _past(
        self,
        name: str,
        started: float,
        ended: float,
        attributes: dict[str, Attribute],
        parent: Span | None = None,
    ) -> Span:
        """Make a span of something that is over; times in seconds of :func:`time.perf_counter`."""
        offset = time.time_ns() - time.perf_counter_ns()
        span = self._tracer.start_span(
            name,
            context=None if parent is None else set_span_in_context(parent),
            start_time=offset + int(started * 1e9),
            attributes=_named(attributes),
        )
        span.end(offset + int(ended * 1e9))
        return span


def _ignore(status: int) -> None:
    """Note nothing."""


def _finish_request(span: Span, scope: Scope, status: int) -> None:
    route = getattr(scope.get("route"), "path", None)  # a template, so that there are few
    if route is not None:
        span.update_name(f"{scope['method']} {route}")
        span.set_attribute("http.route", route)
    span.set_attribute("http.response.status_code", status)
    if status >= 500:
        span.set_status(StatusCode.ERROR)


def _distinct(items: Sequence[Encoded]) -> list[str]:
    return sorted({item.expert for item in items})


def _named(attributes: dict[str, Attribute]) -> dict[str, Attribute]:
    return {f"routerretriever.{name}": value for name, value in attributes.items()}


def _resource(replica: str) -> Resource:
    attributes = {"service.version": __version__}
    stated = os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    if "OTEL_SERVICE_NAME" not in os.environ and "service.name=" not in stated:
        attributes["service.name"] = _SERVICE
    if replica:
        attributes["service.instance.id"] = replica
    return Resource.create(attributes)
