"""BM25 as a yardstick outside dense retrieval, by the bm25s library (Lù 2024, arXiv 2407.03618)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from routerretriever.bench.query_set import QuerySet
from routerretriever.errors import MissingExtraError


def bm25_ranking(queries: QuerySet, depth: int = 100) -> NDArray[np.int32]:
    """Rows of the collection's documents for every query (n, depth), best first, -1 where nothing matches.

    Lucene's variant with k1 = 1.5, b = 0.75 (bm25s' defaults), English stop words, no stemming.
    """
    try:
        import bm25s
    except ImportError as error:
        raise MissingExtraError("bench", "bm25s") from error
    collection, split = queries.collection, queries.split
    ranker = bm25s.BM25()
    ranker.index(
        bm25s.tokenize(collection.contents, stopwords="en", show_progress=False), show_progress=False
    )
    spare = int(collection.ignore_identical_ids)
    tokens = bm25s.tokenize(list(queries.queries.texts), stopwords="en", show_progress=False)
    k = min(depth + spare, len(collection.documents))
    rows, scores = ranker.retrieve(tokens, k=k, show_progress=False)
    ranking = np.full((len(split), depth), -1, np.int32)
    ids = collection.document_ids
    for number, query_id in enumerate(split.queries):
        found = []
        for row, score in zip(rows[number].tolist(), scores[number], strict=True):
            is_the_query = spare and ids[row] == query_id
            if score > 0 and not is_the_query:
                found.append(row)
        best = found[:depth]
        ranking[number, : len(best)] = best
    return ranking
