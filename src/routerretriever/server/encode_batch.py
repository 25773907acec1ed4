"""Encode one batch of rows, in a thread of the batcher."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from routerretriever.encoder.served_model import ServedModel
from routerretriever.errors import ExpertError
from routerretriever.expert_state import ExpertState
from routerretriever.kernels.vectors import Vectors
from routerretriever.routing.candidates import BASE
from routerretriever.routing.policy import RoutingPolicy
from routerretriever.routing.search_plan import DEFAULT_PLAN, SearchPlan
from routerretriever.server.answering import Answering
from routerretriever.server.batching.grouping import by_length
from routerretriever.server.batching.rows import Row
from routerretriever.server.metrics import Metrics


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ForwardPass:
    """One forward pass of several texts; times in seconds of :func:`time.perf_counter`.

    Attributes:
        texts: how many there were, of all requests together.
        started, ended: of the pass.
        routed_at: beginning and end of the routing in it; ``None`` for documents.
    """

    texts: int
    started: float
    ended: float
    routed_at: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Encoded:
    """One text's vector.

    Attributes:
        vector: (d,).
        expert: what encoded it.
        tokens: how many were read.
        forward: the pass that it was in.
        plan: how an index is searched with a query.
        route_embedding: what a query was routed by (1, d_route).
        policy: that routed it.
    """

    vector: Vectors
    expert: str
    tokens: int
    forward: ForwardPass
    plan: SearchPlan = DEFAULT_PLAN
    route_embedding: Vectors | None = None
    policy: RoutingPolicy | None = None


class BatchEncoder:
    """Encodes queries by their experts and documents by the base.

    Args:
        model: encodes.
        answering: the experts that answer.
        metrics: are told what encoded the queries.
    """

    def __init__(self, model: ServedModel, answering: Answering, metrics: Metrics) -> None:
        self._model = model
        self._answering = answering
        self._metrics = metrics
        self.cores = model.cores

    def __call__(self, rows: Sequence[Row], parallel: int) -> Sequence[Any]:
        """Return an :class:`Encoded`, or what went wrong, for every row."""
        self._model.use_threads(max(1, self.cores // parallel))
        results: list[Any] = [None] * len(rows)
        for kind, encode in (
            ("query", self._encode_queries),
            ("document", self._encode_documents),
        ):
            members = [number for number, row in enumerate(rows) if row.kind == kind]
            for group in by_length(members, lambda number: rows[number].cost):
                encoded = encode([rows[number] for number in group])
                for number, result in zip(group, encoded, strict=True):
                    results[number] = result
        return results

    def _encode_queries(self, rows: Sequence[Row]) -> Sequence[Any]:
        state = self._answering.state
        known = {None, *state.candidates}
        present = [row for row in rows if row.expert in known]
        if len(present) == len(rows):
            return self._encode_present(rows, state)

        # An expert was removed after its request was checked.
        encoded: list[Any] = list(self._encode_present(present, state)) if present else []
        for number, row in enumerate(rows):
            if row.expert not in known:
                encoded.insert(
                    number,
                    ExpertError(f"The expert '{row.expert}' was removed meanwhile."),
                )
        return encoded

    def _encode_present(self, rows: Sequence[Row], state: ExpertState) -> list[Encoded]:
        started = time.perf_counter()
        batch = self._model.encode_routed(
            [row.content for row in rows],
            [row.expert for row in rows],
            [row.scope for row in rows],
            state=state,
        )
        forward = ForwardPass(
            texts=len(rows),
            started=started,
            ended=time.perf_counter(),
            routed_at=batch.routed_at,
        )
        self._metrics.routed(batch, [row.client for row in rows])
        return [
            Encoded(
                vector=vector,
                expert=expert,
                tokens=int(tokens),
                forward=forward,
                plan=plan,
                route_embedding=embedding[None],
                policy=policy,
            )
            for vector, expert, tokens, plan, embedding, policy in zip(
                batch.vectors,
                batch.experts,
                batch.tokens,
                batch.plans,
                batch.route_embeddings,
                batch.policies,
                strict=True,
            )
        ]

    def _encode_documents(self, rows: Sequence[Row]) -> list[Encoded]:
        contents = [row.content for row in rows]
        started = time.perf_counter()
        vectors = self._model.encode_documents(contents)
        forward = ForwardPass(texts=len(rows), started=started, ended=time.perf_counter())
        counts = self._model.token_counts(contents)
        self._metrics.documents.inc(len(rows))
        return [
            Encoded(vector=vector, expert=BASE, tokens=tokens, forward=forward)
            for vector, tokens in zip(vectors, counts, strict=True)
        ]
