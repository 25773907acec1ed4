"""Encode a batch of queries in one pass, and say what encoded each."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from routerretriever.encoder.batch_routing import BatchRouting
from routerretriever.encoder.routed_encoder import RoutedEncoder
from routerretriever.encoder.routed_vectors import RoutedVectors
from routerretriever.encoder.token_ids import TokenIds
from routerretriever.expert_state import ExpertState
from routerretriever.routing.scope import RoutingScope


def encode_routed(
    encoder: RoutedEncoder,
    queries: Sequence[str | TokenIds],
    experts: Sequence[str | None] | None = None,
    prompt: str | None = None,
    scopes: Sequence[RoutingScope | None] | None = None,
    state: ExpertState | None = None,
) -> RoutedVectors:
    """Encode one batch.

    Args:
        encoder: base and experts.
        queries: texts or token ids; those of very different length are better given apart.
        experts: for each query a candidate that is pinned, or ``None`` to route it; default all
            routed.
        prompt: put before each query.
        scopes: for each query what it may be routed among, or ``None`` for all; default all.
        state: experts and policy; default those of the encoder.

    Raises:
        ExpertError: there is no such candidate.
    """
    state = state or encoder.state
    routing = BatchRouting(state, len(queries), experts, scopes)
    features = encoder.tokenized_queries(queries, prompt)
    with torch.inference_mode():
        result = encoder.forward_by(features, routing, state)
    return routing.result(
        vectors=result["sentence_embedding"].float().cpu().numpy(),
        weights=result["route_weights"].cpu().numpy(),
        tokens=encoder.counted(queries, features),
    )
