"""What encodes each row of one batch of queries, decided in the middle of the pass."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from routerretriever.encoder.routed_vectors import RoutedVectors
from routerretriever.encoder.row_weights import BASE_COLUMN, FIRST_EXPERT
from routerretriever.errors import ExpertError
from routerretriever.expert_state import ExpertState
from routerretriever.kernels.vectors import Vectors
from routerretriever.routing.policy import Decision, RoutingPolicy
from routerretriever.routing.scope import RoutingScope
from routerretriever.routing.search_plan import DEFAULT_PLAN, SearchPlan

_ROUTED = -1  # stands for a query that is not pinned


@dataclass(slots=True, kw_only=True, eq=False)
class _Part:
    """The rows of one scope.

    Attributes:
        rows: of the batch (m,).
        policy: of the scope; ``None`` leaves the rows to the base.
        columns: place of each of the policy's candidates among those of the model (2 + e,).
        decision: of the policy.
    """

    rows: NDArray[np.int64]
    policy: RoutingPolicy | None
    columns: NDArray[np.int64]
    decision: Decision | None = None

    def own_columns(self, columns: NDArray[np.int64], candidates: int) -> NDArray[np.int64]:
        """Return the model's columns as those of the policy."""
        places = np.zeros(candidates, np.int64)
        places[self.columns] = np.arange(len(self.columns))
        own: NDArray[np.int64] = places[columns]
        return own


class BatchRouting:
    """Decides once, when the route embeddings of a batch are there, and then says what encoded each row.

    Args:
        state: experts and policy.
        rows: of the batch.
        experts: for each row a candidate that is pinned, or ``None`` to route it; default all routed.
        scopes: for each row what it may be routed among, or ``None`` for all; default all.

    Raises:
        ExpertError: there is no such candidate, or not within the scope of its row.
    """

    def __init__(
        self,
        state: ExpertState,
        rows: int,
        experts: Sequence[str | None] | None,
        scopes: Sequence[RoutingScope | None] | None = None,
    ) -> None:
        self._state = state
        self._pinned = _pinned_columns(state, experts or [None] * rows, scopes or [None] * rows)
        self._parts = _parts(state, scopes or [None] * rows)
        self._route_embeddings: Vectors | None = None
        self._routed_at = (0.0, 0.0)

    def __call__(self, route_embeddings: Vectors) -> Vectors:
        """Return weights (n, 2 + E) of base, merged and each expert, from route embeddings (n, d)."""
        started = time.perf_counter()
        self._route_embeddings = route_embeddings
        candidates = len(self._state.candidates)
        weights = np.zeros((len(route_embeddings), candidates), np.float32)
        weights[:, BASE_COLUMN] = 1.0
        for part in self._parts:
            if part.policy is None:
                continue
            part.decision = part.policy.decide(route_embeddings[part.rows])
            of_part = np.zeros((len(part.rows), candidates), np.float32)
            of_part[:, part.columns] = part.decision.weights
            weights[part.rows] = of_part

        is_pinned = self._pinned != _ROUTED
        if is_pinned.any():
            weights[is_pinned] = np.eye(candidates, dtype=np.float32)[self._pinned[is_pinned]]
        self._routed_at = (started, time.perf_counter())
        return weights

    def result(self, vectors: Vectors, weights: Vectors, tokens: NDArray[np.int64]) -> RoutedVectors:
        """Return the vectors (n, d) with what encoded them.

        Args:
            vectors: of the rows.
            weights: as they were decided (n, 2 + E).
            tokens: that were read of each row (n,).
        """
        assert self._route_embeddings is not None
        count = len(vectors)
        own = weights[:, 1:]
        leading = np.where((own > 0).any(axis=1), own.argmax(axis=1) + 1, BASE_COLUMN)
        plans: list[SearchPlan] = [DEFAULT_PLAN] * count
        policies: list[RoutingPolicy | None] = [None] * count
        abstained = np.zeros(count, bool)
        gains = np.full(count, np.nan, np.float32)
        for part in self._parts:
            policy, decision = part.policy, part.decision
            if policy is None or decision is None:
                continue
            columns = part.own_columns(leading[part.rows], len(self._state.candidates))
            for row, plan in zip(part.rows.tolist(), policy.plans(decision, columns), strict=True):
                plans[row], policies[row] = plan, policy
            abstained[part.rows] = decision.adapter_weights == 0
            gains[part.rows] = _gains(decision)

        is_pinned = self._pinned != _ROUTED
        abstained[is_pinned] = False
        gains[is_pinned] = np.nan
        candidates = self._state.candidates
        return RoutedVectors(
            vectors=vectors,
            experts=tuple(candidates[column] for column in leading.tolist()),
            plans=tuple(plans),
            tokens=tokens,
            abstained=abstained,
            predicted_gains=gains,
            route_embeddings=self._route_embeddings,
            policies=tuple(policies),
            routed_at=self._routed_at,
        )


def _pinned_columns(
    state: ExpertState,
    experts: Sequence[str | None],
    scopes: Sequence[RoutingScope | None],
) -> NDArray[np.int64]:
    columns = []
    for expert, scope in zip(experts, scopes, strict=True):
        if expert is not None and scope is not None and expert not in state.candidates_in(scope):
            known = ", ".join(state.candidates_in(scope))
            raise ExpertError(f"There is no expert '{expert}' in this model. Choose one of: {known}.")
        columns.append(_ROUTED if expert is None else state.column(expert))
    return np.array(columns, np.int64)


def _parts(state: ExpertState, scopes: Sequence[RoutingScope | None]) -> list[_Part]:
    members: dict[RoutingScope | None, list[int]] = {}
    for row, scope in enumerate(scopes):
        members.setdefault(scope, []).append(row)
    parts = []
    for scope, rows in members.items():
        policy = state.policy_in(scope)
        names = () if policy is None else policy.candidates
        columns = np.array([state.column(name) for name in names], np.int64)
        parts.append(_Part(rows=np.array(rows, np.int64), policy=policy, columns=columns))
    return parts


def _gains(decision: Decision) -> NDArray[np.float32]:
    """Return the predicted gain of each expert that was chosen (n,); NaN where base or merged was."""
    predicted = np.take_along_axis(decision.scores, decision.chosen[:, None], 1)[:, 0]
    is_expert = (decision.chosen >= FIRST_EXPERT) & (decision.adapter_weights > 0)
    gains: NDArray[np.float32] = np.where(is_expert, predicted, np.float32(np.nan))
    return gains
