"""Fit the calibrations of relevance to judged hits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from routerretriever.routing.relevance import (
    FEATURES,
    LOST,
    VECTOR_FEATURES,
    Logistic,
    Relevance,
    RelevanceTable,
)

ENOUGH_QUERIES = 100
"""Judged queries that a collection needs for calibrations of its own."""

FEWEST_ANSWERED = math.ceil(1 / LOST) - 1
"""Answered queries below which no limit can promise to lose at most :data:`LOST` of them."""

_BESIDE_BASE, _BESIDE_EXPERT = 0, 1
Samples = NDArray[np.float32]
"""Hits of queries: features and whether each is relevant (n, hits, F + 1); NaN where there is none."""


def fit_relevance(samples: Mapping[str, NDArray[np.float32]]) -> RelevanceTable | None:
    """Return the calibrations of all collections; ``None`` if no hit of any query is relevant.

    Args:
        samples: see :class:`RelevanceTable`.
    """
    by_base = [values[_BESIDE_BASE] for values in samples.values()]
    if not any(_is_fittable(values) for values in by_base):
        return None
    by_collection = {}
    for name, pair in samples.items():
        if len(pair[0]) >= ENOUGH_QUERIES and _is_fittable(pair[0]) and _is_fittable(pair[1]):
            source = f"{len(pair[0])} judged queries of '{name}'"
            by_collection[name] = (_relevance([pair[0]], source), _relevance([pair[1]], source))
    queries = sum(map(len, by_base))
    pooled = _relevance(by_base, f"{queries} judged queries of {len(by_base)} collections")
    return RelevanceTable(pooled=pooled, by_collection=by_collection, samples=samples)


def _relevance(collections: Sequence[Samples], source: str) -> Relevance:
    return Relevance(
        hybrid=_fitted(collections, FEATURES),
        vector=_fitted(collections, VECTOR_FEATURES),
        source=source,
    )


def _fitted(collections: Sequence[Samples], columns: int) -> Logistic:
    """Fit one regression, in which every collection counts the same."""
    features, labels, weights = [], [], []
    for values in collections:
        hits = values[np.isfinite(values).all(axis=2)]
        features.append(hits[:, :columns])
        labels.append(hits[:, -1] > 0)
        weights.append(np.full(len(hits), 1.0 / max(1, len(hits))))
    weight = np.concatenate(weights)
    model = LogisticRegression(C=10.0, max_iter=1000)
    model.fit(
        np.concatenate(features), np.concatenate(labels), sample_weight=weight * len(weight) / weight.sum()
    )
    fitted = Logistic(intercept=float(model.intercept_[0]), coefficients=tuple(map(float, model.coef_[0])))
    return replace(fitted, limit=_limit(fitted, collections))


def _limit(fitted: Logistic, collections: Sequence[Samples]) -> float:
    """Return the limit that loses at most :data:`LOST` of the found answers, in nearly every collection.

    Collections differ in their scales, and the next one may be unlike these: of three or more, the
    one that needs the second lowest limit decides, of two the lower. Collections with too few
    answered queries have no say.
    """
    limits = []
    for values in collections:
        first, found = _first_hits(fitted, values)
        if found.sum() >= FEWEST_ANSWERED:
            limits.append(_conformal_quantile(first[found]))
    if not limits:
        return 0.0
    return sorted(limits)[1 if len(limits) > 2 else 0]


def _first_hits(fitted: Logistic, values: Samples) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """Return the probability of each query's first hit, and whether any of its hits is relevant (n,)."""
    searched = values[np.isfinite(values[:, 0]).all(axis=1)]
    first = fitted.probabilities(searched[:, 0, :-1].astype(np.float64))
    return first, np.any(np.nan_to_num(searched[:, :, -1]) > 0, axis=1)


def _conformal_quantile(scores: NDArray[np.float64]) -> float:
    """Return the score that at most the share :data:`LOST` of further queries falls below."""
    rank = int(np.floor(LOST * (len(scores) + 1)))
    return float(np.sort(scores)[rank - 1])


def _is_fittable(values: Samples) -> bool:
    labels = values[np.isfinite(values).all(axis=2)][:, -1]
    return bool(len(labels)) and 0 < labels.mean() < 1
