"""Reading an index: by vectors, by words, or by both."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from numbers import Integral, Real
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from routerretriever.errors import VectorIndexError
from routerretriever.index.encoder import Vectors
from routerretriever.index.fields import is_missing
from routerretriever.index.lance_rows import RowIds, rows_by_id
from routerretriever.index.schema import SHOWN_COLUMNS, collection_and_id
from routerretriever.index.snapshot import Snapshot
from routerretriever.index.table import Metric
from routerretriever.routing.relevance import HITS, Relevance, hit_features
from routerretriever.routing.search_plan import SearchPlan
from routerretriever.words.fuse import DEPTH, best_first, fuse, regularised, similarities_to
from routerretriever.words.text_index import matching

Mode = Literal["vector", "text", "hybrid"]
MODES: tuple[str, ...] = get_args(Mode)


@dataclass(frozen=True, slots=True)
class Hit:
    """One search result.

    ``score`` is the similarity of query and document vector; in mode ``text`` the BM25 score,
    in mode ``hybrid`` the fused score of :func:`routerretriever.words.fuse.fuse`. ``relevance`` is
    the probability, 0..1, that a judge would call the document relevant: of the reranker where there
    is one, else calibrated on judged queries of the pilot library; ``None`` without either.
    """

    id: str
    score: float
    title: str
    text: str
    collection: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    relevance: float | None = None

    @property
    def content(self) -> str:
        """Title and text, as an encoder reads them."""
        return f"{self.title} {self.text}".strip()

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, which knows no infinite numbers: they become null."""
        content = asdict(self)
        for name, value in content["metadata"].items():
            if isinstance(value, float) and not math.isfinite(value):
                content["metadata"][name] = None
        return content


def is_whole(value: object) -> bool:
    """Return whether a value is a whole number, of Python or numpy."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_share(value: object) -> bool:
    """Return whether a value is a number within 0..1."""
    return isinstance(value, Real) and 0.0 <= float(value) <= 1.0


@dataclass(frozen=True, slots=True)
class SearchParameters:
    """How hard an approximate index is searched, and how both sides are fused.

    Attributes:
        nprobes: partitions searched for every query; more find more and take longer. Where
            there is a filter, all are searched.
        refine: candidates re-scored with their full vectors for every wanted result; 0 keeps
            the index's scores (mode ``vector``).
        ef: nodes kept while searching a graph (``hnsw`` only), at least as many as are
            re-scored; ``None`` leaves it to Lance.
        vector_weight: weight of the vectors in mode ``hybrid``, 0..1; ``None`` takes the weight
            that the model's routing gives to each query.
    """

    nprobes: int = 40
    refine: int = 10
    ef: int | None = None
    vector_weight: float | None = None

    def __post_init__(self) -> None:
        least = {"nprobes": (self.nprobes, 1), "refine": (self.refine, 0)}
        if self.ef is not None:
            least["ef"] = (self.ef, 1)
        for name, (value, smallest) in least.items():
            if not is_whole(value) or value < smallest:
                raise VectorIndexError(
                    f"{name} must be at least {smallest}, and a whole number, but is {value!r}."
                )
        if self.vector_weight is not None and not is_share(self.vector_weight):
            raise VectorIndexError(f"vector_weight must be within 0..1, but is {self.vector_weight!r}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRequest:
    """What all queries of one search have in common.

    Attributes:
        snapshot: the version of the index that is read.
        metric: of the vectors.
        k: results of each query, at most.
        where: SQL, or ``None``.
        exact: scan all vectors.
        parameters: of an approximate search.
    """

    snapshot: Snapshot
    metric: Metric
    k: int
    where: str | None = None
    exact: bool = False
    parameters: SearchParameters = field(default_factory=SearchParameters)

    def by_vector(self, vector: Vectors, relevance: Relevance | None = None) -> list[Hit]:
        """Return the k documents nearest to a vector (d,), best first.

        Args:
            vector: the query's (d,).
            relevance: turns what is seen of the hits into probabilities.
        """
        depth = self.k if relevance is None else max(self.k, HITS)
        rows, similarities = self._nearest(vector, depth)
        if self._refines:
            similarities = similarities_to(vector, self._vectors(rows), self.metric)
            best = best_first(similarities, depth)
            rows, similarities = rows[best], similarities[best]

        worth: Iterable[float | None] = itertools.repeat(None)
        if relevance is not None:
            features = hit_features(similarities, np.zeros(len(rows)), np.arange(len(rows)))
            worth = relevance.vector.probabilities(features).tolist()
        return self._hits(rows[: self.k], similarities, worth)

    def by_text(self, query: str) -> list[Hit]:
        """Return the k best documents under BM25, best first.

        There are none if no document has a word of the query.
        """
        rows, scores = self._matching(query, self.k)
        return self._hits(rows, scores, itertools.repeat(None))

    def by_both(self, query: str, vector: Vectors, weight: float, plan: SearchPlan) -> list[Hit]:
        """Return the k best documents of the fused ranking of both sides, best first.

        All candidates are scored with their full vectors, so that both sides have one scale.

        Args:
            query: the text.
            vector: the query's (d,).
            weight: of the vectors, 0..1.
            plan: whether neighbours count, and what turns hits into probabilities.
        """
        depth = max(self.k, DEPTH)
        near, _ = self._nearest(vector, depth)
        rows, word_scores = _united(near, *self._matching(query, depth))
        vectors = self._vectors(rows)
        similarities = similarities_to(vector, vectors, self.metric)

        if len(near) > depth:
            # More were read than each side gives, because an index's own order is approximate.
            kept = word_scores > 0
            kept[best_first(similarities[: len(near)], depth)] = True
            rows, word_scores = rows[kept], word_scores[kept]
            vectors, similarities = vectors[kept], similarities[kept]

        ranked_by: NDArray[Any] = similarities
        if plan.neighbours:
            ranked_by = regularised(similarities, vectors)
        fused = fuse(
            ranked_by,
            word_scores,
            weight=weight,
            lowest=-1.0 if self.metric == "cosine" else None,
        )
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

    def _nearest(self, vector: Vectors, k: int) -> tuple[RowIds, Vectors]:
        """Return rows near a vector and their similarities, as the index sees them; k or, to refine, more."""
        pool = k
        if self._refines:
            pool = max(k, self.k * self.parameters.refine)
        rows, similarities = self._by_distance(vector, pool, exact=self.exact)
        if len(rows) < k and not self.exact and self._matches() > len(rows):
            # The index did not reach them: a filter left few, in a graph or far from the query.
            rows, similarities = self._by_distance(vector, pool, exact=True)
        return rows, similarities

    def _by_distance(self, vector: Vectors, k: int, *, exact: bool) -> tuple[RowIds, Vectors]:
        how: dict[str, Any] = {"use_index": False}
        if not exact:
            how = approximation(self.parameters, k, filtered=self.where is not None)
        found = self._scan(
            "_distance", nearest={"column": "vector", "q": vector, "k": k, "metric": self.metric, **how}
        )
        # Lance's distance is 1 - similarity for cosine and dot alike.
        return found["_rowid"].to_numpy(), 1.0 - found["_distance"].to_numpy()

    def _matching(self, query: str, k: int) -> tuple[RowIds, NDArray[np.float32]]:
        """Return the rows with words of a query, best first, and their BM25 scores."""
        found = self._scan("_score", full_text_query=matching(query), limit=k)
        return found["_rowid"].to_numpy(), found["_score"].to_numpy()

    def _matches(self) -> int:
        return int(self.snapshot.dataset.count_rows(self.where))

    def _scan(self, score: str, **wanted: Any) -> pa.Table:
        """Return the ids and scores of the rows that a search finds; their texts are read later, of the best alone."""
        dataset = self.snapshot.dataset
        try:
            scanner = dataset.scanner(
                columns=[score], with_row_id=True, filter=self.where, prefilter=True, **wanted
            )
            found: pa.Table = scanner.to_table()
        except (OSError, ValueError, RuntimeError) as error:
            hint = ""
            if self.where:
                hint = " A condition looks like: collection = 'scifact' AND year > 2020"
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise VectorIndexError(f"The search failed: {reason}{hint}") from error
        return found

    def _vectors(self, rows: RowIds) -> Vectors:
        column = rows_by_id(self.snapshot.dataset, rows, ["vector"])["vector"].combine_chunks()
        flat: Vectors = column.flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(len(column), column.type.list_size)

    def _hits(self, rows: RowIds, scores: NDArray[Any], relevances: Iterable[float | None]) -> list[Hit]:
        columns = [*SHOWN_COLUMNS, *self.snapshot.metadata]
        shown = rows_by_id(self.snapshot.dataset, rows, columns).to_pylist()
        return [
            hit_of(row, float(score), self.snapshot.metadata, relevance)
            for row, score, relevance in zip(shown, scores, relevances, strict=False)
        ]


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


def approximation(given: SearchParameters, k: int, *, filtered: bool) -> dict[str, float]:
    """Return what Lance is told of how to search an approximate index for k results."""
    how: dict[str, float] = {"nprobes": given.nprobes}
    if filtered:
        # What a filter leaves may be in any partition; a search that ends once there are k
        # would find enough, but not the nearest.
        how = {"search_effort": 1.0}
    if given.ef is not None:
        how["ef"] = max(given.ef, k)
    return how


def hit_of(
    row: Mapping[str, Any], score: float, metadata: Sequence[str], relevance: float | None = None
) -> Hit:
    """Return a row as a result; metadata fields that a document does not have are left out."""
    collection, document_id = collection_and_id(row["key"])
    return Hit(
        id=document_id,
        score=score,
        title=row["title"] or "",
        text=row["text"],
        collection=collection,
        metadata={name: row[name] for name in metadata if not is_missing(row[name])},
        relevance=relevance,
    )


def check_mode(mode: str) -> None:
    """Refuse a mode that does not exist.

    Raises:
        VectorIndexError: there is no such mode.
    """
    if mode not in MODES:
        raise VectorIndexError(f"There is no search mode '{mode}'. Choose one of: {', '.join(MODES)}.")
