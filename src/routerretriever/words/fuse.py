"""One ranking from two: that of the vectors and that of the words."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from routerretriever.kernels.vectors import Vectors

DEPTH = 100
"""Candidates that each side gives at least; more where more results are wanted."""

NEIGHBOURS = 3
NEIGHBOUR_WEIGHT = 0.2
"""Of the nearest candidates in a candidate's similarity; see :func:`regularised`."""

Scores = NDArray[Any]
"""One score for each candidate document (n,)."""


def fuse(
    similarities: Scores, word_scores: Scores, *, weight: float, lowest: float | None = None
) -> NDArray[np.float64]:
    """Return the convex combination of both scores (n,), each scaled to 0..1.

    This is the convex combination of Bruch, Gai and Ingber, "An Analysis of Fusion Functions
    for Hybrid Retrieval" (ACM TOIS 42, 2023, arXiv 2210.11934), with their scaling by a
    theoretical minimum: ``weight · v + (1 - weight) · t``, where ``v = (similarity - lowest) /
    (highest - lowest)`` and ``t = word score / highest``, since no document has less than 0
    under BM25.

    Args:
        similarities: of query and every candidate (n,).
        word_scores: BM25 scores of the candidates (n,); 0 for those without a word of the query.
        weight: of the vectors, 0..1.
        lowest: least similarity there can be (-1 for the cosine); ``None`` if there is none,
            which takes the lowest of the candidates.
    """
    if not len(similarities):
        return np.empty(0)
    if lowest is None:
        lowest = float(np.min(similarities))
    by_vector = _scaled(similarities, lowest, level=1.0)
    by_words = _scaled(word_scores, 0.0, level=0.0)
    return weight * by_vector + (1.0 - weight) * by_words


def similarities_to(vector: Vectors, documents: Vectors, similarity: str) -> Vectors:
    """Return the similarity (n,), ``cosine`` or ``dot``, of a query (d,) to each document (n, d)."""
    products: Vectors = documents @ vector
    if similarity == "dot":
        return products
    norms = np.linalg.norm(documents, axis=1) * np.linalg.norm(vector)
    cosines: Vectors = np.divide(products, norms, out=np.zeros_like(products), where=norms > 0)
    return cosines


def regularised(similarities: Scores, documents: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return similarities (n,) drawn towards those of the documents next to each candidate.

    Documents that resemble each other tend to be relevant for the same queries (score
    regularisation: Diaz, CIKM 2005). Every similarity becomes 0.8 of itself and 0.2 of the mean of
    the candidate's three nearest candidates.

    Args:
        similarities: of query and candidates (n,).
        documents: vectors of the candidates (n, d).
    """
    if len(similarities) <= NEIGHBOURS:
        return similarities.astype(np.float64)
    norms = np.linalg.norm(documents, axis=1, keepdims=True)
    unit = np.divide(documents, norms, out=np.zeros_like(documents), where=norms > 0)
    closeness = unit @ unit.T
    np.fill_diagonal(closeness, -np.inf)
    nearest = np.argpartition(closeness, -NEIGHBOURS, axis=1)[:, -NEIGHBOURS:]
    around = similarities.astype(np.float64)[nearest].mean(axis=1)
    drawn: NDArray[np.float64] = (1.0 - NEIGHBOUR_WEIGHT) * similarities + NEIGHBOUR_WEIGHT * around
    return drawn


def best_first(scores: Scores, k: int) -> NDArray[np.intp]:
    """Return the places of the k best scores, best first; equal ones keep their order."""
    return np.argsort(-scores, kind="stable")[:k]


def _scaled(scores: Scores, lowest: float, *, level: float) -> NDArray[np.float64]:
    """Return scores scaled to 0..1; ``level`` if all are the lowest there can be."""
    values = scores.astype(np.float64)
    span = float(values.max()) - lowest
    if span <= 0.0:
        return np.full(len(values), level)
    return (values - lowest) / span
