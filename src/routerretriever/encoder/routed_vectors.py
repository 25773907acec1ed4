"""Query vectors, and what encoded each of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from routerretriever.kernels.vectors import Vectors
from routerretriever.routing.policy import Decision, RoutingPolicy
from routerretriever.routing.search_plan import SearchPlan


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RoutedVectors:
    """Query vectors, and what encoded each of them.

    Attributes:
        vectors: sentence embeddings (n, d).
        experts: the candidate that leads each row (n,).
        plans: how an index is searched with each (n,).
        tokens: how many the encoder read of each row (n,).
        decision: what the policy said of all rows, pinned ones too; ``None`` without a pilot library.
        route_embeddings: what the router read (n, d_route).
        policy: the policy that decided.
    """

    vectors: Vectors
    experts: tuple[str, ...]
    plans: tuple[SearchPlan, ...]
    tokens: NDArray[np.int64]
    decision: Decision | None
    route_embeddings: Vectors
    policy: RoutingPolicy | None
