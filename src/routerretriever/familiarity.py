"""How well the pilot library knows a query, and the space in which that is measured.

Raw route embeddings are a poor yardstick: a few directions common to all text dominate them, so a
query about cooking is 0.7 similar to every pilot about law. Similarities are therefore taken after
whitening with the covariance *within* collections, which keeps what tells collections apart (the
Mahalanobis view of Lee et al. 2018, arXiv 1807.03888). What counts as near differs between a narrow
collection and a wide one, so a query's similarity to its nearest pilots is set against their own
similarity to their neighbours (as in the local outlier factor, Breunig et al. 2000).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf
from torch import Tensor
from torch.nn import functional as F

from routerretriever.vectors import Vectors

NEIGHBOURS = 30
"""Pilots whose similarity makes the familiarity."""
DENSITY_WEIGHT = 0.7
"""How much of the neighbours' own density is taken off."""
UNSURE_SHARE, SURE_SHARE = 0.06, 0.12
"""Known queries that are given up to the fallback, and those that are trusted to an expert only in part."""

_MAX_FAMILIARITY = 2.0
_MIN_PILOTS, _FOLDS = 16, 4  # for the thresholds
_MAX_ROWS = 20_000  # for the covariance
_BLOCK = 2048  # rows of similarities at a time


@dataclass(frozen=True, slots=True, eq=False)
class PilotSpace:
    """The space of the pilots, and the two familiarities that divide it.

    Attributes:
        mean: subtracted from route embeddings (d,).
        whitening: then applied (d, d).
        density: mean similarity of each pilot to its neighbours in its own collection (P,).
        unsure: below this familiarity a query is taken to be known to no expert.
        sure: from this familiarity on an expert is trusted fully.
    """

    mean: Vectors
    whitening: Vectors
    density: Vectors
    unsure: float = -np.inf
    sure: float = -np.inf

    def transform(self, embeddings: Tensor) -> Tensor:
        """Route embeddings (n, d) → unit vectors (n, d) of this space."""
        mean, whitening = (torch.from_numpy(x).to(embeddings.device) for x in (self.mean, self.whitening))
        return F.normalize((embeddings.float() - mean) @ whitening, dim=-1)

    @classmethod
    def plain(cls, n_pilots: int, dimension: int) -> Self:
        """The space of the raw embeddings, in which every query is familiar."""
        zeros, identity = np.zeros(dimension, np.float32), np.eye(dimension, dtype=np.float32)
        return cls(zeros, identity, np.zeros(n_pilots, np.float32))

    @classmethod
    def fit(cls, centroids: Vectors, sources: Sequence[str], measured: NDArray[np.bool_] | None = None) -> Self:
        """Learn the space from pilots (P, d) and the collections they come from (P,).

        Measured pilots left out of the learning stand for queries of a known domain: ``UNSURE_SHARE`` of them
        fall below ``unsure`` and ``SURE_SHARE`` below ``sure``, every collection counting the same.
        """
        _, groups = np.unique(np.array(sources), return_inverse=True)
        space = cls._learn(centroids, groups)
        judged = np.ones(len(centroids), bool) if measured is None or not measured.any() else measured
        if np.count_nonzero(judged) < _MIN_PILOTS:  # too few to say what is usual
            return replace(space, unsure=-_MAX_FAMILIARITY, sure=-_MAX_FAMILIARITY)
        known, weights = cls._left_out(centroids, groups, judged)
        unsure, sure = np.quantile(known, (UNSURE_SHARE, SURE_SHARE), method="inverted_cdf", weights=weights)
        return replace(space, unsure=float(unsure), sure=float(sure))

    @classmethod
    def _left_out(
        cls, centroids: Vectors, groups: NDArray[Any], judged: NDArray[np.bool_]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Familiarity of the judged pilots, each with a space learnt without it, and their weights."""
        rows, own = np.flatnonzero(judged), groups[judged]
        sizes = np.bincount(groups[judged], minlength=groups.max() + 1)
        # Blocks, because paraphrases tend to stand side by side and would vouch for each other.
        place = np.array([np.count_nonzero(own[:row] == group) for row, group in enumerate(own)])
        fold = place * _FOLDS // sizes[own]
        known = np.empty(len(rows))
        for number in range(_FOLDS):
            kept = np.ones(len(centroids), bool)
            kept[rows[fold == number]] = False
            learnt = cls._learn(centroids[kept], groups[kept])
            known[fold == number] = learnt._of(centroids[rows[fold == number]], centroids[kept])
        return known, 1.0 / sizes[own]

    @classmethod
    def _learn(cls, centroids: Vectors, groups: NDArray[Any]) -> Self:
        present, groups = np.unique(groups, return_inverse=True)
        means = np.stack([centroids[groups == group].mean(axis=0) for group in range(len(present))])
        whitening = _whitening(centroids - means[groups])
        space = cls(means.mean(axis=0), whitening, np.zeros(len(centroids), np.float32))
        density = _densities(space.transform(torch.from_numpy(centroids)), groups)
        return replace(space, density=density.numpy())

    def _of(self, queries: Vectors, pilots: Vectors) -> NDArray[Any]:
        """Familiarity of route embeddings (n, d) with this space's pilots (P, d), both raw."""
        density, points = torch.from_numpy(self.density), self.transform(torch.from_numpy(pilots))
        blocks = self.transform(torch.from_numpy(queries)).split(_BLOCK)
        values: NDArray[Any] = torch.cat([familiarity(block @ points.T, density) for block in blocks]).numpy()
        return values


def familiarity(similarities: Tensor, density: Tensor) -> Tensor:
    """Similarities to the pilots (n, P) → how well they know each query (n,); 0 is about average."""
    nearest = similarities.topk(min(NEIGHBOURS, similarities.shape[1]), dim=1)
    return nearest.values.mean(dim=1) - DENSITY_WEIGHT * density[nearest.indices].mean(dim=1)


def _whitening(residuals: Vectors) -> Vectors:
    """The inverse square root of the covariance, shrunk after Ledoit and Wolf (2004)."""
    if len(residuals) > _MAX_ROWS:
        residuals = residuals[np.random.default_rng(0).choice(len(residuals), _MAX_ROWS, replace=False)]
    if not residuals.any():  # a pilot per collection says nothing about the spread within one
        return np.eye(residuals.shape[1], dtype=np.float32)
    covariance, _ = ledoit_wolf(residuals.astype(np.float64), assume_centered=True)
    values, vectors = np.linalg.eigh(covariance)
    scale = values.clip(1e-6 * values.max()) ** -0.5
    whitening: Vectors = ((vectors * scale) @ vectors.T).astype(np.float32)
    return whitening


def _densities(pilots: Tensor, groups: NDArray[Any]) -> Tensor:
    density = torch.zeros(len(pilots))
    for group in np.unique(groups):
        rows = torch.from_numpy(np.flatnonzero(groups == group))
        similarities = (pilots[rows] @ pilots[rows].T).fill_diagonal_(-torch.inf)
        k = min(NEIGHBOURS, len(rows) - 1)
        if k:
            density[rows] = similarities.topk(k, dim=1).values.mean(dim=1)
    return density
