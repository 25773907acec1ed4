"""One ranking from two: that of the vectors and that of the words."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TypeVar

from routerretriever.routing.candidates import BASE

DEPTH = 100
"""Candidates that each side gives at least; more where more results are wanted."""

BASE_WEIGHT = 0.8
EXPERT_WEIGHT = 0.95
"""Weights of the vectors, by what encoded the query.

On held-out queries (``benchmarks/scale/hybrid.json``) 0.85 is best for queries that the base
encoded, and 0.8 within half a point of it; for those of an expert 0.95 is the best below 1. An
expert knows most of what words would add; words add much to the base.
"""

K = TypeVar("K", bound=Hashable)


def vector_weight(expert: str | None) -> float:
    """Return the weight of the vectors for a query that this candidate encoded.

    ``None`` and ``base`` are the base.
    """
    if expert is None or expert == BASE:
        return BASE_WEIGHT
    return EXPERT_WEIGHT


def fuse(
    vector: Mapping[K, float],
    text: Mapping[K, float],
    *,
    weight: float,
    floor: float | None = None,
) -> list[tuple[K, float]]:
    """Return the convex combination of both scores, each scaled to 0..1, best first.

    This is the convex combination of Bruch, Gai and Ingber, "An Analysis of Fusion Functions
    for Hybrid Retrieval" (ACM TOIS 42, 2023, arXiv 2210.11934), with their scaling by a
    theoretical minimum: ``weight · v + (1 - weight) · t``, where ``v = (score - floor) /
    (highest - floor)`` and ``t = score / highest``, since no document has less than 0 under
    BM25. What one side does not know has 0 there.

    Args:
        vector: similarity of every candidate whose vector is known.
        text: BM25 score of every candidate that has a word of the query.
        weight: of the vectors, 0..1.
        floor: least similarity there can be (-1 for the cosine); ``None`` if there is none,
            which takes the lowest of the candidates.

    Returns:
        All candidates with their fused scores in 0..1. Equal ones keep the order in which they
        came, vectors first.
    """
    if floor is None:
        floor = min(vector.values(), default=0.0)
    vector_scores = _scaled(vector, floor)
    text_scores = _scaled(text, 0.0)

    fused: dict[K, float] = {}
    for key in {**vector, **text}:
        by_vector = weight * vector_scores.get(key, 0.0)
        by_text = (1.0 - weight) * text_scores.get(key, 0.0)
        fused[key] = by_vector + by_text
    return sorted(fused.items(), key=lambda item: -item[1])


def _scaled(scores: Mapping[K, float], lowest: float) -> dict[K, float]:
    span = max(scores.values(), default=lowest) - lowest
    if span <= 0.0:  # all the same: each is the best
        return dict.fromkeys(scores, 1.0)
    return {key: (score - lowest) / span for key, score in scores.items()}
