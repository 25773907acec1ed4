"""What Prometheus may read, and how many queries each candidate served in the last hour."""

from __future__ import annotations

import threading
import time
from collections import Counter as Counts
from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest

from routerretriever.encoder.routed_vectors import RoutedVectors
from routerretriever.server.batching import BatchFacts

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
_GAINS = (-0.2, -0.1, -0.05, -0.02, 0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
_SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_MINUTES = 60

Served = tuple[str, str]
"""Name of a key, empty without one, and of the candidate that encoded its query."""


class Metrics:
    """The figures of one server, in a registry of their own.

    Args:
        replica: the server's name where several answer as one; a label of every figure.
    """

    def __init__(self, replica: str = "") -> None:
        self._replica = replica
        self.registry = CollectorRegistry()
        registry = self.registry
        self.requests = Counter(
            "routerretriever_requests", "Requests answered.", ("path", "method", "status"), registry=registry
        )
        self.latency = Histogram(
            "routerretriever_request_seconds",
            "Whole requests.",
            ("path",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.stages = Histogram(
            "routerretriever_stage_seconds",
            "Parts of requests: queue, encode, route, search.",
            ("stage",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.batch_rows = Histogram(
            "routerretriever_batch_rows", "Texts encoded together.", buckets=_ROWS, registry=registry
        )
        self.queries = Counter(
            "routerretriever_queries",
            "Queries by the candidate that encoded them.",
            ("expert",),
            registry=registry,
        )
        self.documents = Counter("routerretriever_documents", "Documents encoded.", registry=registry)
        self.abstentions = Counter(
            "routerretriever_abstentions", "Routed queries that are out of domain.", registry=registry
        )
        self.gains = Histogram(
            "routerretriever_predicted_gain",
            "Predicted gain of the chosen expert, nDCG@10 over base.",
            buckets=_GAINS,
            registry=registry,
        )
        self.shadow = Counter(
            "routerretriever_shadow_queries",
            "Queries by what the expert in the shadow would do: same, changed, elsewhere, dropped, failed.",
            ("outcome",),
            registry=registry,
        )
        self.shadow_overlap = Histogram(
            "routerretriever_shadow_overlap",
            "Share of the first ten hits that the expert in the shadow would keep.",
            buckets=_SHARES,
            registry=registry,
        )
        self.waiting = Gauge("routerretriever_waiting_requests", "Requests in the queue.", registry=registry)
        self.served = LastHour()

    def batch(self, facts: BatchFacts) -> None:
        """Count one forward pass."""
        self.batch_rows.observe(facts.rows)
        self.stages.labels("encode").observe(facts.seconds)
        queue = self.stages.labels("queue")
        for seconds in facts.waited:
            queue.observe(seconds)

    def routed(self, batch: RoutedVectors, clients: Sequence[str]) -> None:
        """Count what encoded the queries of one batch, each for its client."""
        for expert, count in Counts(batch.experts).items():
            self.queries.labels(expert).inc(count)
        self.served.add(Counts(zip(clients, batch.experts, strict=True)))
        self.abstentions.inc(int(batch.abstained.sum()))
        for gain in batch.predicted_gains[np.isfinite(batch.predicted_gains)].tolist():
            self.gains.observe(gain)

    def forget(self, expert: str) -> None:
        """End the series of an expert that is removed."""
        self.queries.remove(expert)

    def exposition(self) -> bytes:
        """Return all figures in Prometheus' text format."""
        return generate_latest(self)

    def collect(self) -> Iterator[Metric]:
        """Yield what the exposition consists of."""
        for family in self.registry.collect():
            if self._replica:
                family.samples = [
                    s._replace(labels={**s.labels, "replica": self._replica}) for s in family.samples
                ]
            yield family


class LastHour:
    """Counts by client and name over the last sixty minutes, a bucket a minute."""

    def __init__(self) -> None:
        self._buckets: deque[tuple[int, Counts[Served]]] = deque(maxlen=_MINUTES)
        self._lock = threading.Lock()

    def add(self, counts: Counts[Served], minute: int | None = None) -> None:
        """Count some queries; ``minute`` is for tests."""
        minute = int(time.monotonic() // 60) if minute is None else minute
        with self._lock:
            if not self._buckets or self._buckets[-1][0] != minute:
                self._buckets.append((minute, Counts()))
            self._buckets[-1][1].update(counts)

    def totals(self, client: str | None = None, minute: int | None = None) -> Counts[str]:
        """Return the queries by name, of one client or of all; ``minute`` is for tests."""
        minute = int(time.monotonic() // 60) if minute is None else minute
        total: Counts[str] = Counts()
        with self._lock:
            for at, counts in self._buckets:
                if minute - at >= _MINUTES:
                    continue
                for (served, name), count in counts.items():
                    if client in (None, served):
                        total[name] += count
        return total
