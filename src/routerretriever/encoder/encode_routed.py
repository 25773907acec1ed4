"""Encode a batch of queries in one pass, and say what encoded each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from routerretriever.encoder.routed_encoder import RoutedEncoder
from routerretriever.encoder.routed_vectors import RoutedVectors
from routerretriever.encoder.token_ids import TokenIds
from routerretriever.kernels.vectors import Vectors
from routerretriever.routing.policy import Decision, RoutingPolicy
from routerretriever.routing.search_plan import DEFAULT_PLAN, SearchPlan

_ROUTED = -1  # stands for a query that is not pinned


def encode_routed(
    encoder: RoutedEncoder,
    queries: Sequence[str | TokenIds],
    experts: Sequence[str | None] | None = None,
    prompt: str | None = None,
) -> RoutedVectors:
    """Encode one batch.

    Args:
        encoder: base and experts.
        queries: texts or token ids; those of very different length are better given apart.
        experts: for each query a candidate that is pinned, or ``None`` to route it; default all
            routed.
        prompt: put before each query.

    Raises:
        ExpertError: there is no such candidate.
    """
    state = encoder.state
    candidates, policy = state.candidates, state.policy
    columns: list[int] = []
    for expert in experts or [None] * len(queries):
        columns.append(_ROUTED if expert is None else state.column(expert))
    features = encoder.tokenized_queries(queries, prompt)
    pinned = np.array(columns, np.int64)
    read: list[Vectors] = []
    decisions: list[Decision | None] = []

    def decide(route_embeddings: Vectors) -> Vectors:
        decision = None if policy is None else policy.decide(route_embeddings)
        read.append(route_embeddings)
        decisions.append(decision)
        if decision is not None and experts is None:
            return decision.weights

        # Without a policy, the rows that are not pinned are the base's: column 0.
        fixed: Vectors = np.eye(len(candidates), dtype=np.float32)[pinned.clip(min=0)]
        if decision is None:
            return fixed
        weights: Vectors = np.where(pinned[:, None] >= 0, fixed, decision.weights)
        return weights

    with torch.inference_mode():
        result = encoder.forward_by(features, decide, state)
    weights = result["route_weights"][:, 1:].cpu().numpy()
    leading = np.where((weights > 0).any(axis=1), weights.argmax(axis=1) + 1, 0)
    return RoutedVectors(
        vectors=result["sentence_embedding"].float().cpu().numpy(),
        experts=tuple(candidates[column] for column in leading.tolist()),
        plans=_plans(policy, decisions[0], leading),
        tokens=encoder.counted(queries, features),
        decision=decisions[0],
        route_embeddings=read[0],
        policy=policy,
    )


def _plans(
    policy: RoutingPolicy | None, decision: Decision | None, columns: NDArray[np.int64]
) -> tuple[SearchPlan, ...]:
    if policy is None or decision is None:
        return (DEFAULT_PLAN,) * len(columns)
    return policy.plans(decision, columns)
