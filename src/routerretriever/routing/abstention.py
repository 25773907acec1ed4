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

from routerretriever.kernels.exact_search import Vectors
from routerretriever.routing.nearest_pilots import Points, Similarities

NEIGHBOURS = 30
"""Pilots whose similarity makes the familiarity."""
DENSITY_WEIGHT = 0.7
"""How much of the neighbours' own density is taken off."""
UNSURE_SHARE, SURE_SHARE = 0.06, 0.12
"""Known queries that may be given up to the fallback, and that may be trusted to an expert only in part."""

_MAX_FAMILIARITY = 2.0
_MIN_PILOTS, _FOLDS = 16, 4  # for the limits
_MAX_STRANGERS = 16  # collections that play the stranger
_CLEAR_SHARE = 0.98  # of the strangers that stay below the lower limit, if it is lowered
_MAX_ROWS = 20_000  # for the covariance
_BLOCK = 2048  # rows of similarities at a time


@dataclass(frozen=True, slots=True, eq=False)
class Rehearsed:
    """Familiarity of pilots that were left out of the learning; every collection weighs the same.

    Attributes:
        known, known_weights: of queries whose collection the space knows (n,).
        strangers, stranger_weights: of queries whose collection was left out with them (m,).
    """

    known: NDArray[Any]
    known_weights: NDArray[Any]
    strangers: NDArray[Any]
    stranger_weights: NDArray[Any]


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
        white = (embeddings.float() - mean) @ whitening
        return F.normalize(white, dim=-1, out=white)  # in place: of all pilots they take a hundred megabytes

    @classmethod
    def plain(cls, n_pilots: int, dimension: int) -> Self:
        """The space of the raw embeddings, in which every query is familiar."""
        zeros, identity = np.zeros(dimension, np.float32), np.eye(dimension, dtype=np.float32)
        return cls(zeros, identity, np.zeros(n_pilots, np.float32))

    @classmethod
    def fit(cls, centroids: Vectors, sources: Sequence[str], measured: NDArray[np.bool_] | None = None) -> Self:
        """Learn the space from pilots (P, d) and the collections they come from (P,).

        Measured pilots left out of the learning, alone and with their whole collection, say where to divide it;
        see :meth:`divided`.
        """
        space = cls._learn(centroids, _groups(sources))
        judged = np.ones(len(centroids), bool) if measured is None or not measured.any() else measured
        if np.count_nonzero(judged) < _MIN_PILOTS:  # too few to say what is usual
            return replace(space, unsure=-_MAX_FAMILIARITY, sure=-_MAX_FAMILIARITY)
        return space.divided(cls.rehearse(centroids, sources, judged))

    def divided(self, rehearsed: Rehearsed, shares: tuple[float, float] = (UNSURE_SHARE, SURE_SHARE)) -> Self:
        """This space with its two limits: each is passed by all but a share of the known queries.

        Where strangers stay clear of the known, a limit is as low as the strangers allow, so that no more is
        held back than they make necessary.
        """
        unsure, sure = _quantiles(rehearsed.known, rehearsed.known_weights, shares)
        if len(rehearsed.strangers):
            clear = _quantiles(rehearsed.strangers, rehearsed.stranger_weights, (_CLEAR_SHARE, 1.0))
            unsure, sure = min(unsure, clear[0]), min(sure, clear[1])
        return replace(self, unsure=unsure, sure=max(unsure, sure))

    def placing(self, centroids: Vectors, sources: Sequence[str], added: NDArray[np.bool_]) -> Self:
        """This space, learnt from the pilots that are not ``added``, with the density of all of them (P, d)."""
        density = np.zeros(len(centroids), np.float32)
        density[~added] = self.density[: np.count_nonzero(~added)]
        points = self.transform(torch.from_numpy(np.ascontiguousarray(centroids[added])))
        density[added] = _densities(points, _groups([s for s, new in zip(sources, added, strict=True) if new])).numpy()
        return replace(self, density=density)

    @classmethod
    def rehearse(cls, centroids: Vectors, sources: Sequence[str], judged: NDArray[np.bool_]) -> Rehearsed:
        """Familiarity of the judged pilots as known queries and as strangers."""
        groups = _groups(sources)
        rows, own = np.flatnonzero(judged), groups[judged]
        sizes = np.bincount(own, minlength=groups.max() + 1)
        # Blocks, because paraphrases tend to stand side by side and would vouch for each other.
        place = np.array([np.count_nonzero(own[:row] == group) for row, group in enumerate(own)])
        fold = place * _FOLDS // sizes[own]

        def without(out: NDArray[np.bool_], asked: NDArray[np.int64]) -> NDArray[Any]:
            learnt = cls._learn(centroids[~out], groups[~out])
            return learnt._of(centroids[asked], centroids[~out])

        known, strangers = np.empty(len(rows)), np.full(len(rows), np.nan)
        for number in range(_FOLDS):
            asked = rows[fold == number]
            known[fold == number] = without(np.isin(np.arange(len(groups)), asked), asked)
        present = np.unique(own)
        for group in present[:_MAX_STRANGERS] if len(np.unique(groups)) > 1 else ():
            strangers[own == group] = without(groups == group, rows[own == group])
        weights, met = 1.0 / sizes[own], np.isfinite(strangers)
        return Rehearsed(known, weights, strangers[met], weights[met])

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
        density, points = torch.from_numpy(self.density), Points(self.transform(torch.from_numpy(pilots)))
        blocks = self.transform(torch.from_numpy(queries)).split(_BLOCK)
        known = [familiarity(Similarities(block, points), density) for block in blocks]
        values: NDArray[Any] = torch.cat(known).numpy()
        return values


def familiarity(similarities: Similarities, density: Tensor) -> Tensor:
    """How well the pilots know each query (n,), from its similarities to them; 0 is about average."""
    nearest = similarities.nearest(NEIGHBOURS)
    return nearest.values.mean(dim=1) - DENSITY_WEIGHT * density[nearest.indices].mean(dim=1)


def _quantiles(values: NDArray[Any], weights: NDArray[Any], shares: tuple[float, float]) -> tuple[float, float]:
    lower, upper = np.quantile(values, shares, method="inverted_cdf", weights=weights)
    return float(lower), float(upper)


def _groups(sources: Sequence[str]) -> NDArray[Any]:
    """A number for every collection, in the place of its name."""
    return np.unique(np.array(sources), return_inverse=True)[1]


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
