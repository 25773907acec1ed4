"""Rankings and their measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ir_measures
import numpy as np
from ir_measures import RR, R, nDCG
from numpy.typing import NDArray

from routerretriever.data.collection import Collection
from routerretriever.data.splits import Split
from routerretriever.kernels.exact_search import Vectors, top_k

MEASURES = {"nDCG@10": nDCG @ 10, "R@100": R @ 100, "RR@10": RR @ 10}
GAIN_MEASURE = "nDCG@10"
Run = dict[str, dict[str, float]]
"""Query id → document id → score."""


def search_run(
    vectors: Vectors,
    split: Split,
    documents: Vectors,
    collection: Collection,
    *,
    depth: int = 100,
    similarity: str = "cosine",
) -> Run:
    """Rank a collection's documents for every query of a split.

    Args:
        vectors: query vectors (n, d), in the order of ``split.queries``.
        documents: document vectors (m, d), in the order of ``collection.documents``.
        depth: results kept for each query.
    """
    spare = 1 if collection.ignore_identical_ids else 0
    found = top_k(vectors, documents, depth + spare, similarity)
    ids = collection.document_ids
    run: Run = {}
    for query_id, scores, columns in zip(split.queries, found.scores.tolist(), found.columns.tolist(), strict=True):
        ranked = {ids[column]: score for score, column in zip(scores, columns, strict=True)}
        if collection.ignore_identical_ids:
            ranked.pop(query_id, None)
        run[query_id] = dict(list(ranked.items())[:depth])
    return run


def measure_run(run: Run, split: Split, measures: Sequence[str] = tuple(MEASURES)) -> dict[str, NDArray[np.float64]]:
    """Measure name → one value per query, in the order of ``split.queries``."""
    row = {query_id: index for index, query_id in enumerate(split.queries)}
    values = {name: np.zeros(len(row)) for name in measures}
    by_measure = {str(MEASURES[name]): name for name in measures}
    wanted = [MEASURES[name] for name in measures]
    for metric in ir_measures.iter_calc(wanted, _plain(split.qrels), run):
        values[by_measure[str(metric.measure)]][row[metric.query_id]] = metric.value
    return values


def _plain(qrels: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    return {query_id: dict(grades) for query_id, grades in qrels.items()}


def ndcg_at_10(
    vectors: Vectors, split: Split, documents: Vectors, collection: Collection, similarity: str = "cosine"
) -> NDArray[np.float64]:
    """nDCG@10 of every query, in the order of ``split.queries``: the measure that gains are made of."""
    run = search_run(vectors, split, documents, collection, depth=10, similarity=similarity)
    return measure_run(run, split, (GAIN_MEASURE,))[GAIN_MEASURE]
