"""What a fitted system makes of queries: looked up where it chooses, encoded where it blends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from routerretriever.bench.oracles import Oracle
from routerretriever.bench.query_set import Candidate, QuerySet
from routerretriever.bench.systems import System, Weights
from routerretriever.kernels.vectors import Vectors
from routerretriever.routing.candidates import BASE


def outcome(system: System, queries: QuerySet, others: Sequence[QuerySet] = ()) -> Candidate:
    """Return what a fitted system makes of some queries.

    Args:
        system: chooses or weighs the candidates.
        queries: of one collection.
        others: the same queries under experts of other seeds, which oracles may see.
    """
    judged = system.judged_weights(queries, others) if isinstance(system, Oracle) else None
    given = judged or system.weights(queries.queries)
    weights: Weights = {}
    masks = {}
    chooses = True
    for name, weight in given.items():
        if not weight.any():
            continue
        weights[name] = weight
        masks[name] = weight > 0
        chooses = chooses and bool(np.isin(weight, (0.0, 1.0)).all())

    # A choice needs no encoding: each candidate's outcome is known.
    if chooses:
        chosen = _look_up(queries, masks)
    elif system.blends_deltas:
        chosen = queries.rank(_blended(queries, weights))
    else:
        chosen = queries.rank(_mixed(queries, weights))
    return system.finish(queries, chosen)


def _mixed(queries: QuerySet, weights: Weights) -> Vectors:
    parts = [weight[:, None] * queries.candidates[name].vectors for name, weight in weights.items()]
    return np.asarray(sum(parts), np.float32)


def _blended(queries: QuerySet, weights: Weights) -> Vectors:
    vectors = np.empty_like(queries.candidates[BASE].vectors)
    rest = np.ones(len(vectors), bool)
    for name, weight in weights.items():
        whole = weight >= 1.0
        vectors[whole] = queries.candidates[name].vectors[whole]
        rest &= ~whole
    rows = np.flatnonzero(rest)
    if len(rows):
        vectors[rows] = queries.blender.blend(weights, rows)
    return vectors


def _look_up(queries: QuerySet, masks: Mapping[str, NDArray[np.bool_]]) -> Candidate:
    first = queries.candidates[BASE]
    ranking = np.empty_like(first.ranking)
    values = {measure: np.empty(len(ranking)) for measure in first.values}
    for name, mask in masks.items():
        candidate = queries.candidates[name]
        ranking[mask] = candidate.ranking[mask]
        for measure, column in values.items():
            column[mask] = candidate.values[measure][mask]
    return Candidate(_vectors(queries, masks), ranking, values)


def _vectors(queries: QuerySet, masks: Mapping[str, NDArray[np.bool_]]) -> Vectors:
    """Return the vectors that each query was searched with; none if words alone were searched with."""
    vectors = np.empty_like(queries.candidates[BASE].vectors)
    for name, mask in masks.items():
        own = queries.candidates[name].vectors
        if not len(own):
            return np.empty((0, 0), np.float32)
        vectors[mask] = own[mask]
    return vectors
