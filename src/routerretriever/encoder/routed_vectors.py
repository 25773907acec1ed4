"""Query vectors, and what encoded each of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from routerretriever.kernels.vectors import Vectors
from routerretriever.routing.policy import RoutingPolicy
from routerretriever.routing.search_plan import SearchPlan


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RoutedVectors:
    """Query vectors, and what encoded each of them.

    Attributes:
        vectors: sentence embeddings (n, d).
        experts: the candidate that leads each row (n,).
        plans: how an index is searched with each (n,).
        tokens: how many the encoder read of each row (n,).
        abstained: whether a routed row is out of domain; false for a pinned one (n,).
        predicted_gains: of the expert that was chosen for a routed row, nDCG@10 over base; NaN where none
            was chosen (n,).
        route_embeddings: what the router read (n, d_route).
        policies: what decided each row; ``None`` without a pilot library (n,).
        routed_at: when routing began and ended, in seconds of :func:`time.perf_counter`.
    """

    vectors: Vectors
    experts: tuple[str, ...]
    plans: tuple[SearchPlan, ...]
    tokens: NDArray[np.int64]
    abstained: NDArray[np.bool_]
    predicted_gains: NDArray[np.float32]
    route_embeddings: Vectors
    policies: tuple[RoutingPolicy | None, ...]
    routed_at: tuple[float, float]
