"""Reading an index: by vectors, by words, or by both."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from routerretriever.errors import VectorIndexError
from routerretriever.index.best_passages import Found, best_rows
from routerretriever.index.encoder import Vectors
from routerretriever.index.fields import is_missing
from routerretriever.index.parameters import SearchParameters
from routerretriever.index.view import Record, RowIds, View
from routerretriever.passages.grouping import Grouping, candidates, widened
from routerretriever.passages.passage import Place
from routerretriever.routing.relevance import HITS, Relevance, hit_features
from routerretriever.routing.search_plan import SearchPlan
from routerretriever.words.fuse import DEPTH, best_first, fuse, regularised, similarities_to

Mode = Literal["vector", "text", "hybrid"]
MODES: tuple[str, ...] = get_args(Mode)


@dataclass(frozen=True, slots=True)
class Hit:
    """One search result.

    ``score`` is the similarity of query and document vector; in mode ``text`` the BM25
    score, in mode ``hybrid`` the fused score of
    :func:`routerretriever.words.fuse.fuse`. ``relevance`` is the probability, 0..1,
    that a judge would call the document relevant: of the reranker where there is one,
        else calibrated on judged queries of the pilot library; ``None`` without either.

    ``text`` is the document's, or that of its best passage if the document is longer
    than the base reads. Then ``passage`` says where it is in the document; otherwise it
    is ``None``.
    """

    id: str
    score: float
    title: str
    text: str
    collection: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    relevance: float | None = None
    passage: Place | None = None

    @property
    def content(self) -> str:
        """Title, headings and text, as an encoder reads them."""
        heading = self.passage.heading if self.passage else ""
        return " ".join(part for part in (self.title, heading, self.text) if part).strip()

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, which knows no infinite numbers: they become null."""
        content = asdict(self)
        for name, value in content["metadata"].items():
            if isinstance(value, float) and not math.isfinite(value):
                content["metadata"][name] = None
        return content


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRequest:
    """What all queries of one search have in common.

    Attributes:
        view: the documents that may be found.
        k: results of each query, at most.
        exact: scan all vectors.
        parameters: of an approximate search.
        passages: return passages, instead of documents ranked by their best passage.
    """

    view: View
    k: int
    exact: bool = False
    parameters: SearchParameters = field(default_factory=SearchParameters)
    passages: bool = False

    def by_vector(self, vector: Vectors, relevance: Relevance | None = None) -> list[Hit]:
        """Return the k documents nearest to a vector (d,), best first.

        Args:
            vector: the query's (d,).
            relevance: turns what is seen of the hits into probabilities.
        """
        depth = self.k if relevance is None else max(self.k, HITS)
        rows, similarities = self._ranked(partial(self._refined, vector), depth)

        worth: Iterable[float | None] = itertools.repeat(None)
        if relevance is not None:
            features = hit_features(similarities, np.zeros(len(rows)), np.arange(len(rows)))
            worth = relevance.vector.probabilities(features).tolist()
        return self._hits(rows[: self.k], similarities, worth)

    def by_text(self, query: str) -> list[Hit]:
        """Return the k best documents under BM25, best first.

        There are none if no document has a word of the query.
        """
        rows, scores = self._ranked(partial(self.view.matching, query), self.k)
        return self._hits(rows[: self.k], scores, itertools.repeat(None))

    def by_both(self, query: str, vector: Vectors, weight: float, plan: SearchPlan) -> list[Hit]:
        """Return the k best documents of the fused ranking of both sides, best first.

        All candidates are scored with their full vectors, so that both sides have one
        scale.

        Args:
            query: the text.
            vector: the query's (d,).
            weight: of the vectors, 0..1.
            plan: whether neighbours count, and what turns hits into probabilities.
        """
        depth = max(self.k, DEPTH)
        near, _ = self._found(partial(self._nearest, vector), depth)
        rows, word_scores = _united(near, *self._found(partial(self.view.matching, query), depth))
        vectors = self.view.vectors(rows)
        similarities = similarities_to(vector, vectors, self.view.metric)
        lowest = -1.0 if self.view.metric == "cosine" else None
        count = len(near)

        if self._groups:
            # Both scores of a document are the best of its passages, not always of the same one.
            grouping = Grouping(self.view.documents(rows))
            count = grouping.documents_in(count)
            by_passage = fuse(similarities, word_scores, weight=weight, lowest=lowest)
            nearest = grouping.best(similarities)
            word_scores = word_scores[grouping.best(word_scores)]
            rows = rows[grouping.best(by_passage)]
            vectors, similarities = vectors[nearest], similarities[nearest]

        if count > depth:
            # More were read than each side gives, because an index's own order is approximate.
            kept = candidates(similarities, word_scores, count, depth)
            rows, word_scores = rows[kept], word_scores[kept]
            vectors, similarities = vectors[kept], similarities[kept]

        ranked_by: NDArray[Any] = similarities
        if plan.neighbours:
            ranked_by = regularised(similarities, vectors)
        fused = fuse(ranked_by, word_scores, weight=weight, lowest=lowest)
        best = best_first(fused, max(self.k, HITS))
        worth: Iterable[float | None] = itertools.repeat(None)
        if plan.relevance is not None:
            features = hit_features(similarities, word_scores, best)
            worth = plan.relevance.hybrid.probabilities(features).tolist()
        return self._hits(rows[best][: self.k], fused[best], worth)

    @property
    def _refines(self) -> bool:
        """Whether what an approximate index found is scored again with full vectors."""
        return self.parameters.refine > 0 and not self.exact

    @property
    def _groups(self) -> bool:
        """Whether several rows may be one result."""
        return self.view.has_passages and not self.passages

    def _found(self, find: Callable[[int], Found], depth: int) -> Found:
        """Return the best rows, of so many documents where several rows may be one."""
        if not self._groups:
            return find(depth)
        return widened(find, lambda rows: Grouping(self.view.documents(rows)), depth)

    def _ranked(self, find: Callable[[int], Found], depth: int) -> Found:
        """Return the best rows, one of each document."""
        found = self._found(find, depth)
        return best_rows(self.view, found) if self._groups else found

    def _refined(self, vector: Vectors, k: int) -> Found:
        """Return the k rows nearest to a vector, best first."""
        rows, similarities = self._nearest(vector, k)
        if self._refines:
            similarities = similarities_to(vector, self.view.vectors(rows), self.view.metric)
            best = best_first(similarities, k)
            rows, similarities = rows[best], similarities[best]
        return rows, similarities

    def _nearest(self, vector: Vectors, k: int) -> tuple[RowIds, Vectors]:
        """Return rows near a vector and their similarities, as the index sees them; k or, to refine, more."""
        pool = k
        if self._refines:
            pool = max(k, self.k * self.parameters.refine)
        rows, similarities = self.view.nearest(vector, pool, None if self.exact else self.parameters)
        if len(rows) < k and not self.exact and self.view.count() > len(rows):
            # The index did not reach them: a filter left few, in a graph or far from the query.
            rows, similarities = self.view.nearest(vector, pool, None)
        return rows, similarities

    def _hits(self, rows: RowIds, scores: NDArray[Any], relevances: Iterable[float | None]) -> list[Hit]:
        hits = []
        for record, score, relevance in zip(self.view.records(rows), scores, relevances, strict=False):
            hits.append(hit_of(record, float(score), relevance))
        return hits


def _united(
    near: RowIds, with_words: RowIds, scores: NDArray[np.float32]
) -> tuple[RowIds, NDArray[np.float64]]:
    """Return the rows that either side found, those near first, and their BM25 scores: 0 where no word matches."""
    place_of = {row: place for place, row in enumerate(near.tolist())}
    for row in with_words.tolist():
        place_of.setdefault(row, len(place_of))
    word_scores = np.zeros(len(place_of))
    word_scores[[place_of[row] for row in with_words.tolist()]] = scores
    return np.array(list(place_of), np.uint64), word_scores


def hit_of(record: Record, score: float, relevance: float | None = None) -> Hit:
    """Return a record as a result; metadata fields that a document does not have are left out."""
    return Hit(
        id=record.id,
        score=score,
        title=record.title or "",
        text=record.text,
        collection=record.collection,
        metadata={name: value for name, value in record.metadata.items() if not is_missing(value)},
        relevance=relevance,
        passage=record.passage,
    )


def check_mode(mode: str) -> None:
    """Refuse a mode that does not exist.

    Raises:
        VectorIndexError: there is no such mode.
    """
    if mode not in MODES:
        raise VectorIndexError(f"There is no search mode '{mode}'. Choose one of: {', '.join(MODES)}.")
