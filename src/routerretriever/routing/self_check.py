"""Measure how well a library routes its own pilots, so that a saved model can be judged without any data."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from routerretriever.routing.folds import contiguous_folds
from routerretriever.routing.policy import RoutingPolicy

FOLDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingQuality:
    """Gain of routing on the measured pilots of one collection.

    Attributes:
        collection: its name.
        queries: number of queries behind those pilots.
        share: fraction of the queries that are routed to an expert.
        gain: mean gain of the experts chosen (nDCG@10 over the base), each times its adapter weight.
        best_expert: the expert with the largest mean gain on all of these queries.
        best_gain: that gain.
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
        One entry for each collection with measured pilots. The list is empty where the rule does not know the
        base, since the paper's libraries are too small to leave pilots out.
    """
    library = policy.library
    measured = np.flatnonzero(library.measured)
    if not policy.router.knows_base or len(measured) < FOLDS:
        return []
    sources = np.array(library.sources)

    weights = np.zeros((len(library), len(library.experts)))
    for fold in contiguous_folds(sources[measured], FOLDS):
        rows = measured[fold]
        if not len(rows):
            continue
        kept = np.ones(len(library), bool)
        kept[rows] = False
        without = replace(policy, router=policy.router.over(library.only(kept)))
        decided = without.decide(library.centroids[rows]).weights
        weights[rows] = decided[:, 2:] + decided[:, 1:2] / len(library.experts)

    qualities = []
    for name in library.collections():
        own = measured[sources[measured] == name]
        # A pilot that chose an expert has no gain of it, so it cannot tell what routing there gains.
        finite = np.isfinite(library.gains[own])
        own = own[(finite == finite.any(axis=0)).all(axis=1)]
        if len(own):
            gains = np.nan_to_num(library.gains[own])
            qualities.append(_quality(name, library.experts, weights[own], gains, library.counts[own]))
    return qualities


def _quality(
    name: str,
    experts: tuple[str, ...],
    weights: NDArray[np.float64],
    gains: NDArray[np.float32],
    counts: NDArray[np.int64],
) -> RoutingQuality:
    means = np.average(gains, axis=0, weights=counts)
    return RoutingQuality(
        collection=name,
        queries=int(counts.sum()),
        share=float(np.average((weights > 0).any(axis=1), weights=counts)),
        gain=float(np.average((weights * gains).sum(axis=1), weights=counts)),
        best_expert=experts[int(means.argmax())],
        best_gain=float(means.max()),
    )
