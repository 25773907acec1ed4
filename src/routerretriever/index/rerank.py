"""The last stage of a search: a reranker orders what was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from routerretriever.index.search import Hit

RERANKED = 50
"""Documents of each query that a reranker reads; more where more results are wanted."""


class Reranks(Protocol):
    """Says how probable it is that a document is relevant; :class:`routerretriever.Reranker` does."""

    def probabilities(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        """Return the probability of each pair of query and document (n,)."""


def reranked(
    reranker: Reranks, queries: Sequence[str], found: Sequence[Sequence[Hit]], k: int
) -> list[list[Hit]]:
    """Return the k most relevant hits of every query, most relevant first.

    All pairs are read in one call, so that they fill the reranker's batches.

    Args:
        reranker: reads query and document together.
        queries: the texts (n).
        found: hits of each query (n).
        k: hits to keep.
    """
    pairs = []
    for query, hits in zip(queries, found, strict=True):
        pairs += [(query, hit.content) for hit in hits]
    relevances = iter(reranker.probabilities(pairs).tolist())

    results = []
    for hits in found:
        scored = [replace(hit, relevance=next(relevances)) for hit in hits]
        results.append(sorted(scored, key=_by_relevance)[:k])
    return results


def _by_relevance(hit: Hit) -> float:
    return -(hit.relevance or 0.0)
