"""The in-domain score of a query, and the space of the pilots in which it is computed.

Raw route embeddings are a poor yardstick: a few directions common to all text dominate them, so a
query about cooking is 0.7 similar to every pilot about law. Similarities are therefore computed after
whitening with the covariance *within* collections, which keeps what tells collections apart (the
Mahalanobis view of Lee et al. 2018, arXiv 1807.03888). What counts as near differs between a narrow
collection and a wide one, so a query's similarity to its nearest pilots is compared with their own
similarity to their neighbours (as in the local outlier factor, Breunig et al. 2000).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from routerretriever.extras import of_training
from routerretriever.kernels.vectors import Vectors
from routerretriever.routing.folds import contiguous_folds, group_numbers, leave_one_group_out
from routerretriever.routing.nearest_pilots import PilotVectors, Similarities, largest

NEIGHBOURS = 30
"""Number of nearest pilots whose similarity makes the in-domain score."""
DENSITY_WEIGHT = 0.7
"""Fraction of the neighbours' own density that is subtracted."""
REJECT_FRACTION, TRUST_FRACTION = 0.06, 0.12
"""Fractions of the in-domain queries that may fall below the reject and below the trust threshold."""

_MAX_SCORE = 2.0
_MIN_PILOTS, _FOLDS = 16, 4  # for the thresholds
_MAX_LEFT_OUT = 16  # collections that are left out to play the unseen one
_CLEAR_FRACTION = 0.98  # of the out-of-domain queries, kept below a lowered reject threshold
_MAX_ROWS = 20_000  # for the covariance
_BLOCK = 2048  # rows of similarities at a time
_SHORTEST = np.float32(1e-12)  # a vector of zeros stays one


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class CrossValidatedScores:
    """In-domain scores of pilots that were left out when the space was fitted.

    Every collection has the same total weight.

    Attributes:
        in_domain, in_domain_weights: scores of queries whose collection has other pilots (n,).
        out_of_domain, out_of_domain_weights: scores of queries whose whole collection was left out (m,).
    """

    in_domain: NDArray[Any]
    in_domain_weights: NDArray[Any]
    out_of_domain: NDArray[Any]
    out_of_domain_weights: NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class PilotSpace:
    """The space of the pilots, and the two in-domain scores that divide it.

    Attributes:
        mean: subtracted from route embeddings (d,).
        whitening: applied afterwards (d, d).
        density: mean similarity of each pilot to its neighbours in its own collection (P,).
        reject_threshold: a query with a lower score is out of domain; the router abstains.
        trust_threshold: from this score on an expert is applied with its full weight.
    """

    mean: Vectors
    whitening: Vectors
    density: Vectors
    reject_threshold: float = -np.inf
    trust_threshold: float = -np.inf

    def transform(self, embeddings: Vectors) -> Vectors:
        """Map route embeddings (n, d) to unit vectors (n, d) of this space."""
        white: Vectors = np.subtract(embeddings, self.mean, dtype=np.float32) @ self.whitening
        lengths = np.sqrt(np.einsum("nd,nd->n", white, white))[:, None]
        # In place: all pilots together take 100 MB.
        np.divide(white, np.maximum(lengths, _SHORTEST), out=white)
        return white

    @classmethod
    def plain(cls, n_pilots: int, dimension: int) -> Self:
        """Return the space of the raw embeddings, in which every query is in domain."""
        return cls(
            mean=np.zeros(dimension, np.float32),
            whitening=np.eye(dimension, dtype=np.float32),
            density=np.zeros(n_pilots, np.float32),
        )

    @classmethod
    def fit(
        cls, centroids: Vectors, sources: Sequence[str], measured: NDArray[np.bool_] | None = None
    ) -> Self:
        """Fit the space to pilots (P, d) and the collections that they come from (P,).

        The thresholds come from cross-validating the measured pilots; see :meth:`with_thresholds`.
        """
        space = cls._fit_vectors(centroids, group_numbers(sources))
        if measured is None or not measured.any():
            measured = np.ones(len(centroids), bool)
        if np.count_nonzero(measured) < _MIN_PILOTS:  # too few to say what is usual
            return replace(space, reject_threshold=-_MAX_SCORE, trust_threshold=-_MAX_SCORE)
        return space.with_thresholds(cls.cross_validate(centroids, sources, measured))

    def with_thresholds(
        self,
        scores: CrossValidatedScores,
        fractions: tuple[float, float] = (REJECT_FRACTION, TRUST_FRACTION),
    ) -> Self:
        """Return this space with its two thresholds.

        Each is a quantile of the in-domain scores. Where out-of-domain scores lie well below those, a
        threshold is only as high as they require, so that no expert is held back needlessly.
        """
        reject, trust = _quantiles(scores.in_domain, scores.in_domain_weights, fractions)
        if len(scores.out_of_domain):
            clear = _quantiles(scores.out_of_domain, scores.out_of_domain_weights, (_CLEAR_FRACTION, 1.0))
            reject, trust = min(reject, clear[0]), min(trust, clear[1])
        return replace(self, reject_threshold=reject, trust_threshold=max(reject, trust))

    def with_added_pilots(self, centroids: Vectors, sources: Sequence[str], added: NDArray[np.bool_]) -> Self:
        """Return this space with the density of all pilots (P, d), although it was not fitted to the added ones."""
        density = np.zeros(len(centroids), np.float32)
        density[~added] = self.density[: np.count_nonzero(~added)]
        vectors = self.transform(centroids[added])
        groups = group_numbers([source for source, new in zip(sources, added, strict=True) if new])
        density[added] = _densities(vectors, groups)
        return replace(self, density=density)

    @classmethod
    def cross_validate(
        cls, centroids: Vectors, sources: Sequence[str], measured: NDArray[np.bool_]
    ) -> CrossValidatedScores:
        """Score the measured pilots by spaces without them, and by spaces without their whole collection."""
        groups = group_numbers(sources)
        rows, own = np.flatnonzero(measured), groups[measured]

        def score_without(left_out: NDArray[np.bool_], queries: NDArray[np.int64]) -> NDArray[Any]:
            space = cls._fit_vectors(centroids[~left_out], groups[~left_out])
            return space._scores(centroids[queries], centroids[~left_out])

        in_domain = np.empty(len(rows))
        for fold in contiguous_folds(own, _FOLDS):
            left_out = np.isin(np.arange(len(groups)), rows[fold])
            in_domain[fold] = score_without(left_out, rows[fold])

        # With a single collection nothing would remain to score its queries.
        out_of_domain = np.full(len(rows), np.nan)
        if len(np.unique(groups)) > 1:
            for mask in islice(leave_one_group_out(own), _MAX_LEFT_OUT):
                out_of_domain[mask] = score_without(groups == own[mask][0], rows[mask])

        weights = 1.0 / np.bincount(own, minlength=groups.max() + 1)[own]
        scored = np.isfinite(out_of_domain)
        return CrossValidatedScores(
            in_domain=in_domain,
            in_domain_weights=weights,
            out_of_domain=out_of_domain[scored],
            out_of_domain_weights=weights[scored],
        )

    @classmethod
    def _fit_vectors(cls, centroids: Vectors, groups: NDArray[Any]) -> Self:
        groups = group_numbers(groups)
        means = np.stack([centroids[groups == group].mean(axis=0) for group in range(groups.max() + 1)])
        whitening = _whitening(centroids - means[groups])
        space = cls(
            mean=means.mean(axis=0), whitening=whitening, density=np.zeros(len(centroids), np.float32)
        )
        return replace(space, density=_densities(space.transform(centroids), groups))

    def _scores(self, queries: Vectors, pilots: Vectors) -> NDArray[Any]:
        """Return the in-domain scores of route embeddings (n, d) among this space's pilots (P, d), both raw."""
        vectors = PilotVectors(self.transform(pilots))
        scores = []
        for start in range(0, len(queries), _BLOCK):
            block = self.transform(queries[start : start + _BLOCK])
            scores.append(in_domain_score(Similarities(block, vectors), self.density))
        return np.concatenate(scores)


def in_domain_score(similarities: Similarities, density: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return how close each query is to the pilots (n,); 0 is about the average of in-domain queries."""
    nearest = similarities.nearest(NEIGHBOURS)
    own = density[nearest.indices].mean(axis=1)
    scores: NDArray[np.float32] = nearest.values.mean(axis=1) - DENSITY_WEIGHT * own
    return scores


def _quantiles(
    values: NDArray[Any], weights: NDArray[Any], fractions: tuple[float, float]
) -> tuple[float, float]:
    lower, upper = np.quantile(values, fractions, method="inverted_cdf", weights=weights)
    return float(lower), float(upper)


def _whitening(residuals: Vectors) -> Vectors:
    """Return the inverse square root of the covariance, shrunk after Ledoit and Wolf (2004)."""
    if len(residuals) > _MAX_ROWS:
        residuals = residuals[np.random.default_rng(0).choice(len(residuals), _MAX_ROWS, replace=False)]
    if not residuals.any():  # one pilot per collection says nothing about the spread within it
        return np.eye(residuals.shape[1], dtype=np.float32)
    with of_training():  # routing itself does without
        from sklearn.covariance import ledoit_wolf

    covariance, _ = ledoit_wolf(residuals.astype(np.float64), assume_centered=True)
    values, vectors = np.linalg.eigh(covariance)
    scale = values.clip(1e-6 * values.max()) ** -0.5
    whitening: Vectors = ((vectors * scale) @ vectors.T).astype(np.float32)
    return whitening


def _densities(pilots: Vectors, groups: NDArray[Any]) -> NDArray[np.float32]:
    density = np.zeros(len(pilots), np.float32)
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        similarities = pilots[rows] @ pilots[rows].T
        np.fill_diagonal(similarities, -np.inf)
        k = min(NEIGHBOURS, len(rows) - 1)
        if k:
            density[rows] = largest(similarities.T, k).values.mean(axis=1)
    return density
