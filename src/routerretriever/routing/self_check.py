"""How well a library routes, from its own pilots: what a saved model can say of itself without any data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    from routerretriever.routing.policy import RoutingPolicy

FOLDS = 5


@dataclass(frozen=True, slots=True)
class RoutingQuality:
    """What routing brings the measured pilots of one collection.

    Attributes:
        collection: its name.
        queries: behind those pilots.
        share: of the queries that an expert gets.
        gain: mean nDCG@10 over base of the experts that they get, a part of an update counting as that part.
        best_expert: the one that gains most on all of them.
        best_gain: of that expert for every query.
    """

    collection: str
    queries: int
    share: float
    gain: float
    best_expert: str
    best_gain: float


def routing_quality(policy: RoutingPolicy) -> list[RoutingQuality]:
    """Route each fifth of the measured pilots by a library without them.

    Returns:
        One entry a collection with measured pilots; nothing where the rule knows no base, since the paper's libraries
        are too small to leave pilots out.
    """
    library = policy.library
    rows = np.flatnonzero(library.measured)
    if not policy.router.knows_base or len(rows) < FOLDS:
        return []
    weights = np.zeros((len(library), len(library.experts)))
    for asked, kept in _folds(rows, len(library)):
        fold = replace(policy, router=policy.router.over(library.only(kept)))
        decided = fold.decide(torch.from_numpy(library.centroids[asked])).weights.cpu().numpy()
        weights[asked] = decided[:, 2:] + decided[:, 1:2] / len(library.experts)
    gains = np.nan_to_num(library.gains)
    sources = np.array(library.sources)
    found = []
    for name in library.collections():
        own = rows[sources[rows] == name]
        if len(own):
            found.append(_of(name, library.experts, weights[own], gains[own], library.counts[own]))
    return found


def _folds(rows: NDArray[np.int64], count: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
    order = np.random.default_rng(0).permutation(rows)
    for asked in np.array_split(order, FOLDS):
        kept = np.ones(count, bool)
        kept[asked] = False
        yield asked, kept


def _of(
    name: str,
    experts: tuple[str, ...],
    weights: NDArray[np.float64],
    gains: NDArray[np.float32],
    counts: NDArray[np.int64],
) -> RoutingQuality:
    means = np.average(gains, axis=0, weights=counts)
    return RoutingQuality(
        name,
        int(counts.sum()),
        float(np.average((weights > 0).any(axis=1), weights=counts)),
        float(np.average((weights * gains).sum(axis=1), weights=counts)),
        experts[int(means.argmax())],
        float(means.max()),
    )
