"""Search again with an expert that does not answer yet, and note what it would change."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from routerretriever.encoder.served_model import ServedModel
from routerretriever.errors import StorageError
from routerretriever.expert_state import ExpertState
from routerretriever.feedback.shadow_log import Difference, ShadowHit, ShadowLine
from routerretriever.index.answer import Answer, SearchOptions
from routerretriever.index.index import Index
from routerretriever.index.querying import EncodedQueries
from routerretriever.index.search import Hit
from routerretriever.kernels.vectors import Vectors
from routerretriever.routing.candidates import BASE
from routerretriever.routing.scope import RoutingScope
from routerretriever.server.metrics import Metrics
from routerretriever.storage.atomic import append_line

LOG = logging.getLogger("routerretriever.server")

COMPARED = 10
"""Hits of each query that are compared."""
WAITING = 256
"""Searches that may wait; more are dropped, and counted."""
_LOOK_SECONDS = 0.005  # between two looks whether the server is idle


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Asked:
    """A search that was answered.

    Attributes:
        queries: texts (n).
        route_embeddings: what they were routed by (n, d_route).
        answers: that were given (n).
        scope: what they could be routed among.
        k: results of each query, at most.
        options: of the search, with the condition of the key in them.
    """

    queries: Sequence[str]
    route_embeddings: Vectors
    answers: Sequence[Answer]
    scope: RoutingScope | None
    k: int
    options: SearchOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What was found since the server started, in queries.

    Attributes:
        queries: that were looked at.
        routed: that the expert would have encoded.
        changed: of these, with other first hits, or in another order.
        first_changed: of these, with another first hit.
        overlap: sum of the shares of first hits that stay, over those that were routed.
        dropped: because too many were waiting.
        failed: searches that ended with an error; the server's log says which.
        unlogged: because the file is full or cannot be written.
    """

    queries: int = 0
    routed: int = 0
    changed: int = 0
    first_changed: int = 0
    overlap: float = 0.0
    dropped: int = 0
    failed: int = 0
    unlogged: int = 0


class Shadow:
    """Looks at answered searches in a thread of its own, one query at a time, while no answer is being encoded.

    Args:
        expert: that does not answer.
        model: has it.
        index: that was searched.
        metrics: are told the outcomes.
        is_idle: whether nothing waits for the encoder.
        log: file that a line for each query of the expert is appended to, if any.
        limit: bytes that the file may grow to.
    """

    def __init__(
        self,
        *,
        expert: str,
        model: ServedModel,
        index: Index,
        metrics: Metrics,
        is_idle: Callable[[], bool],
        log: Path | None,
        limit: int,
    ) -> None:
        self.expert = expert
        self._model = model
        self._index = index
        self._metrics = metrics
        self._is_idle = is_idle
        self._log = log
        self._limit = limit
        self._waiting: queue.Queue[Asked] = queue.Queue(WAITING)
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._totals = Totals()
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)
        self._thread.start()

    @property
    def totals(self) -> Totals:
        """What was found so far."""
        with self._lock:
            return self._totals

    def offer(self, asked: Asked) -> None:
        """Look at a search later, if not too many are waiting; never waits."""
        try:
            self._waiting.put_nowait(asked)
        except queue.Full:
            number = len(asked.queries)
            self._count("dropped", number, dropped=number)

    def close(self) -> None:
        """Stop, without looking at what is waiting."""
        self._closed.set()
        self._thread.join()

    # -- in the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        self._model.use_threads(1)
        while not self._closed.is_set():
            try:
                asked = self._waiting.get(timeout=0.1)
            except queue.Empty:
                continue
            try:
                self._look_at(asked)
            except Exception:  # the thread must outlive any search
                LOG.exception("A search could not be compared with the expert '%s'", self.expert)
                self._count("failed", failed=1)

    def _look_at(self, asked: Asked) -> None:
        state = self._model.state
        for row, gain in self._routed(asked, state).items():
            self._wait_until_idle()
            if self._closed.is_set():
                return
            self._look(asked, row, gain, state)

    def _routed(self, asked: Asked, state: ExpertState) -> dict[int, float]:
        """Return the rows that the expert would have encoded, and the gain that is predicted for each."""
        policy = state.policy_in(asked.scope)
        found: dict[int, float] = {}
        if policy is not None and self.expert in policy.candidates:
            column = policy.candidates.index(self.expert)
            decision = policy.decide(asked.route_embeddings)
            for row, chosen in enumerate(decision.chosen.tolist()):
                if chosen == column and decision.adapter_weights[row] > 0:
                    found[row] = float(decision.scores[row, column])
        elsewhere = len(asked.queries) - len(found)
        if elsewhere:
            self._count("elsewhere", elsewhere, queries=elsewhere)
        return found

    def _wait_until_idle(self) -> None:
        while not self._is_idle() and not self._closed.is_set():
            time.sleep(_LOOK_SECONDS)

    def _look(self, asked: Asked, row: int, gain: float, state: ExpertState) -> None:
        query = asked.queries[row]
        encoded = self._model.encode_routed([query], None, [asked.scope], state=state)
        searched = EncodedQueries(
            queries=[query],
            vectors=encoded.vectors,
            experts=encoded.experts,
            plans=encoded.plans,
        )
        (found,) = self._index.answer_encoded(searched, asked.k, **asked.options)
        before = asked.answers[row]
        difference = compare(before.hits[:COMPARED], found.hits[:COMPARED])
        self._count(
            "changed" if difference.changed else "same",
            queries=1,
            routed=1,
            changed=int(difference.changed),
            first_changed=int(difference.first_changed),
            overlap=difference.overlap,
        )
        self._metrics.shadow_overlap.observe(difference.overlap)
        self._write(
            ShadowLine(
                time=datetime.now(UTC).isoformat(timespec="seconds"),
                query=query,
                shadow=self.expert,
                answered=before.expert or BASE,
                predicted_gain=round(gain, 4),
                **dict(difference),
            )
        )

    def _write(self, line: ShadowLine) -> None:
        if self._log is None:
            return
        try:
            written = append_line(self._log, line.model_dump_json().encode(), self._limit)
        except StorageError as error:
            LOG.error("%s", error)
            written = False
        if not written:
            self._count(None, unlogged=1)

    def _count(self, outcome: str | None, times: int = 1, **changes: float) -> None:
        with self._lock:
            grown = {name: getattr(self._totals, name) + by for name, by in changes.items()}
            self._totals = replace(self._totals, **grown)
        if outcome is not None:
            self._metrics.shadow.labels(outcome).inc(times)


def compare(before: Sequence[Hit], after: Sequence[Hit]) -> Difference:
    """Return how the first hits of two searches differ; passages of a document are hits of their own."""
    old, new = [_identity(hit) for hit in before], [_identity(hit) for hit in after]
    longest = max(len(old), len(new))
    return Difference(
        overlap=len(set(old) & set(new)) / longest if longest else 1.0,
        changed=old != new,
        first_changed=old[:1] != new[:1],
        came=[_shown(hit, rank) for rank, hit in enumerate(after, 1) if _identity(hit) not in set(old)],
        went=[_shown(hit, rank) for rank, hit in enumerate(before, 1) if _identity(hit) not in set(new)],
    )


def _identity(hit: Hit) -> tuple[str, str, int | None]:
    return hit.collection, hit.id, None if hit.passage is None else hit.passage.number


def _shown(hit: Hit, rank: int) -> ShadowHit:
    return ShadowHit(id=hit.id, collection=hit.collection, rank=rank, score=round(hit.score, 6))
