"""Rankings by vectors and words together, as the index makes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from routerretriever.data.collection import Collection
from routerretriever.data.splits import Split
from routerretriever.evaluation.runs import GAIN_MEASURE, Run, measure_run
from routerretriever.kernels.exact_search import top_k
from routerretriever.kernels.vectors import Vectors
from routerretriever.routing.relevance import FEATURES, HITS, hit_features
from routerretriever.words.fuse import DEPTH, best_first, fuse, regularised, similarities_to
from routerretriever.words.weights import DEFAULT_WEIGHT, WEIGHTS
from routerretriever.words.word_search import Found, word_search

Weights = NDArray[np.float32] | float
"""Weight of the vectors, 0..1: one for each query (n,), or one for all."""

Neighbours = NDArray[np.bool_] | bool
"""Whether neighbours count: one for each query (n,), or one for all."""


def words_of(collection: Collection, split: Split) -> list[Found]:
    """Return the documents that each query of a split finds by its words, with their BM25 scores."""
    documents = collection.documents
    with word_search([d.title for d in documents], [d.text for d in documents]) as search:
        return search.search_many(split.queries.values(), DEPTH + int(collection.ignore_identical_ids))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HybridRanker:
    """The candidates of every query of a split, ready to be fused with any weight.

    Attributes:
        split: the queries (n).
        ids: of the collection's documents.
        documents: vectors of the collection's documents (m, d).
        rows: candidate documents of each query, those near its vector first.
        similarities: of query and candidates.
        word_scores: BM25 scores of the candidates; 0 where no word matches.
        lowest: least similarity there can be, if there is one.
        without_itself: a query's own id is left out of its results.
    """

    split: Split
    ids: Sequence[str]
    documents: Vectors
    rows: list[NDArray[np.int64]]
    similarities: list[Vectors]
    word_scores: list[NDArray[np.float64]]
    lowest: float | None
    without_itself: bool

    @classmethod
    def of(
        cls,
        vectors: Vectors,
        words: Sequence[Found],
        split: Split,
        documents: Vectors,
        collection: Collection,
        *,
        similarity: str = "cosine",
    ) -> Self:
        """Gather the candidates of both sides.

        Args:
            vectors: of the queries (n, d), in the order of ``split.queries``.
            words: of :func:`words_of`.
            split: the queries.
            documents: vectors of the collection's documents (m, d).
            collection: what is searched.
            similarity: ``cosine`` or ``dot``.
        """
        near = top_k(vectors, documents, DEPTH + int(collection.ignore_identical_ids), similarity)
        rows, similarities, word_scores = [], [], []
        for number, (found, scores) in enumerate(words):
            columns = near.columns[number]
            place_of = {column: place for place, column in enumerate(columns.tolist())}
            alone = [row for row in found.tolist() if row not in place_of]
            union = np.concatenate([columns, np.array(alone, np.int64)])
            place_of |= {row: len(columns) + place for place, row in enumerate(alone)}

            by_words = np.zeros(len(union))
            by_words[[place_of[row] for row in found.tolist()]] = scores
            own = similarities_to(vectors[number], documents[alone], similarity)
            rows.append(union)
            similarities.append(np.concatenate([near.scores[number], own]))
            word_scores.append(by_words)
        return cls(
            split=split,
            ids=collection.document_ids,
            documents=documents,
            rows=rows,
            similarities=similarities,
            word_scores=word_scores,
            lowest=-1.0 if similarity == "cosine" else None,
            without_itself=collection.ignore_identical_ids,
        )

    def run(self, weights: Weights, neighbours: Neighbours = False, *, depth: int = 100) -> Run:
        """Rank the documents for every query.

        Args:
            weights: of the vectors, 0..1: one for all queries, or one for each (n,).
            neighbours: whether similar documents draw each other's similarities together: one for all
                queries, or one for each (n,).
            depth: results kept for each query.
        """
        each = np.broadcast_to(np.asarray(weights, np.float64), len(self.rows))
        drawn = np.broadcast_to(np.asarray(neighbours, np.bool_), len(self.rows))
        run: Run = {}
        for number, query_id in enumerate(self.split.queries):
            fused = self._fused(number, float(each[number]), neighbours=bool(drawn[number]))
            ranked = {}
            for place in best_first(fused, depth + 1):
                if not self._is_itself(query_id, number, place):
                    ranked[self.ids[self.rows[number][place]]] = float(fused[place])
            run[query_id] = dict(list(ranked.items())[:depth])
        return run

    def _fused(self, number: int, weight: float, *, neighbours: bool) -> NDArray[np.float64]:
        similarities: NDArray[Any] = self.similarities[number]
        if neighbours:
            similarities = regularised(similarities, self.documents[self.rows[number]])
        return fuse(similarities, self.word_scores[number], weight=weight, lowest=self.lowest)

    def _is_itself(self, query_id: str, number: int, place: int) -> bool:
        return self.without_itself and self.ids[self.rows[number][place]] == query_id

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
        each = np.broadcast_to(np.asarray(weights, np.float64), len(self.rows))
        drawn = np.broadcast_to(np.asarray(neighbours, np.bool_), len(self.rows))
        samples = np.full((len(self.rows), HITS, FEATURES + 1), np.nan, np.float32)
        for number, query_id in enumerate(self.split.queries):
            fused = self._fused(number, float(each[number]), neighbours=bool(drawn[number]))
            order = [p for p in best_first(fused, HITS + 1) if not self._is_itself(query_id, number, p)][
                :HITS
            ]
            features = hit_features(
                self.similarities[number], self.word_scores[number], np.array(order, np.intp)
            )
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
