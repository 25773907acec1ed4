"""What encodes each row of one batch of queries, decided in the middle of the pass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from routerretriever.encoder.routed_vectors import RoutedVectors
from routerretriever.expert_state import ExpertState
from routerretriever.kernels.vectors import Vectors
from routerretriever.routing.policy import Decision
from routerretriever.routing.search_plan import DEFAULT_PLAN, SearchPlan

_ROUTED = -1  # stands for a query that is not pinned


class BatchRouting:
    """Decides once, when the route embeddings of a batch are there, and then says what encoded each row.

    Args:
        state: experts and policy.
        rows: of the batch.
        experts: for each row a candidate that is pinned, or ``None`` to route it; default all routed.

    Raises:
        ExpertError: there is no such candidate.
    """

    def __init__(self, state: ExpertState, rows: int, experts: Sequence[str | None] | None) -> None:
        self._state = state
        columns = [_ROUTED if expert is None else state.column(expert) for expert in experts or [None] * rows]
        self._pinned = np.array(columns, np.int64)
        self._is_routed = experts is None or not any(experts)
        self._decision: Decision | None = None
        self._route_embeddings: Vectors | None = None

    def __call__(self, route_embeddings: Vectors) -> Vectors:
        """Return weights (n, 2 + E) of base, merged and each expert, from route embeddings (n, d)."""
        self._route_embeddings = route_embeddings
        policy = self._state.policy
        decision = self._decision = None if policy is None else policy.decide(route_embeddings)
        if decision is not None and self._is_routed:
            return decision.weights

        # Without a policy, the rows that are not pinned are the base's: column 0.
        fixed: Vectors = np.eye(len(self._state.candidates), dtype=np.float32)[self._pinned.clip(min=0)]
        if decision is None:
            return fixed
        weights: Vectors = np.where(self._pinned[:, None] >= 0, fixed, decision.weights)
        return weights

    def result(self, vectors: Vectors, weights: Vectors, tokens: NDArray[np.int64]) -> RoutedVectors:
        """Return the vectors (n, d) with what encoded them.

        Args:
            vectors: of the rows.
            weights: as they were decided (n, 2 + E).
            tokens: that were read of each row (n,).
        """
        assert self._route_embeddings is not None
        own = weights[:, 1:]
        leading = np.where((own > 0).any(axis=1), own.argmax(axis=1) + 1, 0)
        candidates = self._state.candidates
        return RoutedVectors(
            vectors=vectors,
            experts=tuple(candidates[column] for column in leading.tolist()),
            plans=self._plans(leading),
            tokens=tokens,
            decision=self._decision,
            route_embeddings=self._route_embeddings,
            policy=self._state.policy,
        )

    def _plans(self, columns: NDArray[np.int64]) -> tuple[SearchPlan, ...]:
        if self._state.policy is None or self._decision is None:
            return (DEFAULT_PLAN,) * len(columns)
        return self._state.policy.plans(self._decision, columns)
