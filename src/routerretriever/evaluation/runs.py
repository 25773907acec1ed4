"""Rankings and their measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ir_measures
import numpy as np
from ir_measures import RR, R, nDCG
from numpy.typing import NDArray

from routerretriever.data.collection import Collection
from routerretriever.data.splits import Split
from routerretriever.encoder.document_vectors import DocumentVectors
from routerretriever.kernels.exact_search import top_k
from routerretriever.kernels.vectors import Vectors

MEASURES = {"nDCG@10": nDCG @ 10, "R@100": R @ 100, "RR@10": RR @ 10}
GAIN_MEASURE = "nDCG@10"
Run = dict[str, dict[str, float]]
"""Query id → document id → score."""


def search_run(
    vectors: Vectors,
    split: Split,
    documents: DocumentVectors,
    collection: Collection,
    *,
    depth: int = 100,
    similarity: str = "cosine",
) -> Run:
    """Rank a collection's documents for every query of a split, long ones by their best passage.

    Args:
        vectors: query vectors (n, d), in the order of ``split.queries``.
        documents: vectors of ``collection.documents``.
        depth: results kept for each query.
    """
    # A query that is itself a document of the collection may find itself; one more result makes up for it.
    spare = int(collection.ignore_identical_ids)
    found = top_k(vectors, documents.vectors, depth + spare, similarity, documents.groups)
    ids = collection.document_ids
    run: Run = {}
    rows = zip(split.queries, found.scores.tolist(), found.columns.tolist(), strict=True)
    for query_id, scores, columns in rows:
        ranked = dict(zip((ids[column] for column in columns), scores, strict=True))
        if collection.ignore_identical_ids:
            ranked.pop(query_id, None)
        run[query_id] = dict(list(ranked.items())[:depth])
    return run


def own_documents(split: Split, collection: Collection) -> NDArray[np.int64]:
    """Return the document (n,) that each query is itself and must not find, as a row; -1 where there is none."""
    if not collection.ignore_identical_ids:
        return np.full(len(split), -1)
    row = {document_id: place for place, document_id in enumerate(collection.document_ids)}
    return np.array([row.get(query_id, -1) for query_id in split.queries], np.int64)


def measure_run(
    run: Run, split: Split, measures: Sequence[str] = tuple(MEASURES)
) -> dict[str, NDArray[np.float64]]:
    """Measure name → one value per query, in the order of ``split.queries``."""
    row = dict(zip(split.queries, range(len(split.queries)), strict=True))
    values: dict[str, NDArray[np.float64]] = {}
    by_measure: dict[str, str] = {}
    for name in measures:
        values[name] = np.zeros(len(row))
        by_measure[str(MEASURES[name])] = name

    wanted = [MEASURES[name] for name in measures]
    for metric in ir_measures.iter_calc(wanted, _plain(split.qrels), run):
        values[by_measure[str(metric.measure)]][row[metric.query_id]] = metric.value
    return values


def _plain(qrels: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    plain = {}
    for query_id, grades in qrels.items():
        plain[query_id] = dict(grades)
    return plain


def ndcg_at_10(
    vectors: Vectors,
    split: Split,
    documents: DocumentVectors,
    collection: Collection,
    similarity: str = "cosine",
) -> NDArray[np.float64]:
    """nDCG@10 of every query, in the order of ``split.queries``: the measure that gains are made of."""
    run = search_run(vectors, split, documents, collection, depth=10, similarity=similarity)
    return measure_run(run, split, (GAIN_MEASURE,))[GAIN_MEASURE]
