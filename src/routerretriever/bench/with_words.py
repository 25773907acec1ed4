"""Systems that use words beside the vectors, by the product's own functions, and rank fusion for reference."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from routerretriever.bench.query_set import Candidate, QuerySet
from routerretriever.bench.systems import BM25, Always, Routed
from routerretriever.evaluation.hybrid_runs import settings_of
from routerretriever.routing.candidates import BASE
from routerretriever.words.weights import DEFAULT_WEIGHT


class Hybrid(Always):
    """The base's vectors and words at the default weight: what a user has without experts."""

    def __init__(self) -> None:
        super().__init__(BASE)

    def finish(self, queries: QuerySet, outcome: Candidate) -> Candidate:
        return queries.with_words(outcome.vectors, DEFAULT_WEIGHT)


class RoutedHybrid(Routed):
    """The product's default search: routed vectors, and words with the weight that the router gives them."""

    def finish(self, queries: QuerySet, outcome: Candidate) -> Candidate:
        plans = self.policy.plans(self.decision(queries.queries))
        return queries.with_words(outcome.vectors, *settings_of(plans))


class RankFusion(Routed):
    """The routed ranking and that of the words, fused by reciprocal rank (Cormack et al. 2009, k = 60)."""

    needs = (BM25,)

    def finish(self, queries: QuerySet, outcome: Candidate) -> Candidate:
        return queries.measure(reciprocal_rank_fusion(outcome.ranking, queries.candidates[BM25].ranking))


def reciprocal_rank_fusion(*rankings: NDArray[np.int32], k: int = 60, depth: int = 100) -> NDArray[np.int32]:
    """Rankings (n, m) of rows, -1 for nothing → one ranking (n, depth)."""
    fused = np.full((len(rankings[0]), depth), -1, np.int32)
    for number in range(len(fused)):
        scores: dict[int, float] = {}
        for ranking in rankings:
            for place, row in enumerate(ranking[number].tolist(), start=1):
                if row >= 0:
                    scores[row] = scores.get(row, 0.0) + 1.0 / (k + place)
        best = sorted(scores, key=lambda row: (-scores[row], row))[:depth]
        fused[number, : len(best)] = best
    return fused
