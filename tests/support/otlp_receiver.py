"""A collector on this machine: it takes spans by OTLP over HTTP, as a real one does."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


class Receiver:
    """What was received."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.paths: list[str] = []
        self.bodies: list[bytes] = []
        self.exports: list[ExportTraceServiceRequest] = []

    @property
    def spans(self):
        """All spans, in the order in which they came."""
        return [
            span
            for export in self.exports
            for resource in export.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def wait_for(self, names, seconds=15):
        """Return the spans of these names once all are there."""
        deadline = time.monotonic() + seconds
        while not set(names) <= {span.name for span in self.spans}:
            assert time.monotonic() < deadline, [span.name for span in self.spans]
            time.sleep(0.05)
        return [span for span in self.spans if span.name in names]


def value_of(attribute):
    """The value of an attribute as plain data."""
    kind = attribute.value.WhichOneof("value")
    if kind == "array_value":
        return [item.string_value for item in attribute.value.array_value.values]
    return getattr(attribute.value, kind)


def attributes_of(span):
    """The attributes of a span, or of a resource, as a dictionary."""
    return {attribute.key: value_of(attribute) for attribute in span.attributes}


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Receive spans until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.paths.append(self.path)
            found.bodies.append(body)
            found.exports.append(ExportTraceServiceRequest.FromString(body))
            content = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found = Receiver(f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield found
        finally:
            server.shutdown()
