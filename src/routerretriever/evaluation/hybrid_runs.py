"""Rankings by vectors and words together, as the index makes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from routerretriever.data.collection import Collection
from routerretriever.data.splits import Split
from routerretriever.encoder.document_vectors import DocumentVectors
from routerretriever.evaluation.runs import GAIN_MEASURE, Run, measure_run, own_documents
from routerretriever.kernels.exact_search import top_k
from routerretriever.kernels.vectors import Vectors
from routerretriever.passages.grouping import WIDER, Grouping, candidates, widened
from routerretriever.routing.relevance import FEATURES, HITS, hit_features
from routerretriever.routing.search_plan import SearchPlan
from routerretriever.words.fuse import DEPTH, best_first, fuse, regularised, similarities_to
from routerretriever.words.weights import DEFAULT_WEIGHT, WEIGHTS
from routerretriever.words.word_search import Found, word_search

Weights = NDArray[np.float32] | float
"""Weight of the vectors, 0..1: one for each query (n,), or one for all."""

Neighbours = NDArray[np.bool_] | bool
"""Whether neighbours count: one for each query (n,), or one for all."""


def settings_of(plans: Sequence[SearchPlan]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the weight of the vectors (n,), and whether neighbours count (n,), for each query's plan."""
    weights = np.array([plan.vector_weight for plan in plans], np.float32)
    return weights, np.array([plan.neighbours for plan in plans], np.bool_)


def words_of(collection: Collection, split: Split, documents: DocumentVectors) -> list[Found]:
    """Return the passages that each query of a split finds by its words, with their BM25 scores.

    Args:
        collection: whose documents are searched.
        split: the queries.
        documents: of the collection; those that are whole are their only passage.
    """
    depth = DEPTH + int(collection.ignore_identical_ids)
    titles, texts = zip(*documents.texts, strict=True)

    def grouped(rows: NDArray[np.int64]) -> Grouping:
        return Grouping.of(documents.owners[rows])

    with word_search(titles, texts) as search:
        if not documents.in_passages:
            return search.search_many(split.queries.values(), depth)
        return [widened(partial(search.search, query), grouped, depth) for query in split.queries.values()]


def near_passages(queries: Vectors, documents: DocumentVectors, depth: int, similarity: str) -> list[Found]:
    """Return the passages nearest to each query (n, d), best first, and their similarities.

    They belong to at least ``depth`` documents, if there are so many; as an index reads
    more rows where those found belong to too few documents.
    """
    found: dict[int, Found] = {}
    pool, missing = depth, list(range(len(queries)))
    while missing:
        near = top_k(queries[missing], documents.vectors, pool, similarity)
        for query, rows, scores in zip(missing, near.columns, near.scores, strict=True):
            is_all = not documents.in_passages or len(rows) < pool
            if is_all or Grouping.of(documents.owners[rows]).count >= depth:
                found[query] = rows, scores
        missing = [query for query in missing if query not in found]
        pool *= WIDER
    return [found[query] for query in range(len(queries))]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HybridRanker:
    """The candidates of every query of a split, ready to be fused with any weight.

    Attributes:
        split: the queries (n).
        ids: of the collection's documents.
        own: rows of the documents that queries must not find (n,); see
            :func:`own_documents`.
        vectors: of the passages of the collection's documents (P, d).
        rows: candidate documents of each query, those near its vector first.
        nearest: the passage of each candidate that is nearest to the query.
        similarities: of query and candidates: of this passage.
        word_scores: BM25 scores of the candidates, of the best passage; 0 where no word
            matches.
        lowest: least similarity there can be, if there is one.
    """

    split: Split
    ids: Sequence[str]
    own: NDArray[np.int64]
    vectors: Vectors
    rows: list[NDArray[np.int64]]
    nearest: list[NDArray[np.int64]]
    similarities: list[Vectors]
    word_scores: list[NDArray[np.float64]]
    lowest: float | None

    @classmethod
    def of(
        cls,
        vectors: Vectors,
        words: Sequence[Found],
        split: Split,
        documents: DocumentVectors,
        collection: Collection,
        *,
        similarity: str = "cosine",
    ) -> Self:
        """Gather the candidates of both sides.

        Args:
            vectors: of the queries (n, d), in the order of ``split.queries``.
            words: of :func:`words_of`.
            split: the queries.
            documents: of the collection.
            collection: what is searched.
            similarity: ``cosine`` or ``dot``.
        """
        depth = DEPTH + int(collection.ignore_identical_ids)
        near = near_passages(vectors, documents, depth, similarity)
        rows, nearest, similarities, word_scores = [], [], [], []
        for number, (found, scores) in enumerate(words):
            columns, near_scores = near[number]
            place_of = {column: place for place, column in enumerate(columns.tolist())}
            alone = [row for row in found.tolist() if row not in place_of]
            union = np.concatenate([columns, np.array(alone, np.int64)])
            place_of |= {row: len(columns) + place for place, row in enumerate(alone)}

            by_words = np.zeros(len(union))
            by_words[[place_of[row] for row in found.tolist()]] = scores
            own = similarities_to(vectors[number], documents.vectors[alone], similarity)
            similar = np.concatenate([near_scores, own])
            if documents.in_passages:
                # Both scores of a document are the best of its passages, not always of the same one.
                grouping = Grouping.of(documents.owners[union])
                best = grouping.best(similar)
                union, similar = union[best], similar[best]
                by_words = by_words[grouping.best(by_words)]
                kept = candidates(similar, by_words, grouping.documents_in(len(columns)), depth)
                union, similar, by_words = union[kept], similar[kept], by_words[kept]
            rows.append(documents.owners[union])
            nearest.append(union)
            similarities.append(similar)
            word_scores.append(by_words)
        return cls(
            split=split,
            ids=collection.document_ids,
            own=own_documents(split, collection),
            vectors=documents.vectors,
            rows=rows,
            nearest=nearest,
            similarities=similarities,
            word_scores=word_scores,
            lowest=-1.0 if similarity == "cosine" else None,
        )

    def run(self, weights: Weights, neighbours: Neighbours = False, *, depth: int = 100) -> Run:
        """Rank the documents for every query.

        Args:
            weights: of the vectors, 0..1: one for all queries, or one for each (n,).
            neighbours: whether similar documents draw each other's similarities
                together: one for all queries, or one for each (n,).
            depth: results kept for each query.
        """
        run: Run = {}
        best = self._best(weights, neighbours, depth)
        for query_id, rows, (order, scores) in zip(self.split.queries, self.rows, best, strict=True):
            run[query_id] = dict(zip((self.ids[row] for row in rows[order]), scores, strict=True))
        return run

    def _best(
        self, weights: Weights, neighbours: Neighbours, depth: int
    ) -> Iterator[tuple[NDArray[np.intp], list[float]]]:
        """Yield the places of each query's best candidates, best first, and their scores."""
        each = np.broadcast_to(np.asarray(weights, np.float64), len(self.rows))
        drawn = np.broadcast_to(np.asarray(neighbours, np.bool_), len(self.rows))
        for number, rows in enumerate(self.rows):
            similarities: NDArray[Any] = self.similarities[number]
            if drawn[number]:
                similarities = regularised(similarities, self.vectors[self.nearest[number]])
            fused = fuse(
                similarities, self.word_scores[number], weight=float(each[number]), lowest=self.lowest
            )
            order = best_first(fused, depth + 1)
            order = order[rows[order] != self.own[number]][:depth]
            yield order, fused[order].tolist()

    def ndcg_at_10(self, weights: Weights) -> NDArray[np.float64]:
        """Return nDCG@10 of every query (n,)."""
        run = self.run(weights, depth=10)
        return measure_run(run, self.split, (GAIN_MEASURE,))[GAIN_MEASURE]

    def samples(
        self, weights: Weights = DEFAULT_WEIGHT, neighbours: Neighbours = False
    ) -> NDArray[np.float32]:
        """Return features of the best hits under some weights, and whether each is relevant.

        The shape is (n, HITS, FEATURES + 1); NaN where a query has fewer hits.
        """
        samples = np.full((len(self.rows), HITS, FEATURES + 1), np.nan, np.float32)
        best = self._best(weights, neighbours, HITS)
        for number, (query_id, (order, _)) in enumerate(zip(self.split.queries, best, strict=True)):
            features = hit_features(self.similarities[number], self.word_scores[number], order)
            grades = self.split.qrels.get(query_id, {})
            for rank, place in enumerate(order):
                grade = grades.get(self.ids[self.rows[number][place]], 0)
                samples[number, rank] = [*features[rank], grade > 0]
        return samples

    def gains(self) -> NDArray[np.float32]:
        """Return what each of :data:`WEIGHTS` gains over the vectors alone (n, W), in nDCG@10."""
        alone = self.ndcg_at_10(1.0)
        gains = [self.ndcg_at_10(weight) - alone for weight in WEIGHTS]
        return np.stack(gains, axis=1).astype(np.float32)
