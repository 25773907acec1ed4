"""Reading an index: by vectors, by words, or by both."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from routerretriever.errors import VectorIndexError
from routerretriever.index.encoder import Vectors
from routerretriever.index.fields import is_missing
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


@dataclass(frozen=True, slots=True)
class SearchParameters:
    """How hard an approximate index is searched, and how both sides are fused.

    Attributes:
        nprobes: partitions searched for every query; more find more and take longer. Where
            there is a filter, all are searched.
        refine: candidates re-scored with their full vectors for every wanted result; 0 keeps
            the index's scores.
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
        if self.nprobes < 1 or self.refine < 0 or (self.ef is not None and self.ef < 1):
            raise VectorIndexError(f"nprobes and ef must be at least 1 and refine at least 0, not {self}.")
        if self.vector_weight is not None and not 0.0 <= self.vector_weight <= 1.0:
            raise VectorIndexError(f"vector_weight must be within 0..1, but is {self.vector_weight}.")


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
        near = self._nearest(vector, depth, self._columns)
        similarities = _similarities(near)
        worth: Sequence[float | None] = [None] * self.k
        if relevance is not None:
            features = hit_features(similarities, np.zeros(len(near)), np.arange(len(near)))
            worth = relevance.vector.probabilities(features).tolist()
        rows = near.slice(0, self.k).to_pylist()
        return [
            self._hit(row, float(score), probability)
            for row, score, probability in zip(rows, similarities, worth, strict=False)
        ]

    def by_text(self, query: str) -> list[Hit]:
        """Return the k best documents under BM25, best first.

        There are none if no document has a word of the query.
        """
        rows = self._matching(query, self.k, self._columns).to_pylist()
        return [self._hit(row, float(row["_score"])) for row in rows]

    def by_both(self, query: str, vector: Vectors, weight: float, plan: SearchPlan) -> list[Hit]:
        """Return the k best documents of the fused ranking of both sides, best first.

        Args:
            query: the text.
            vector: the query's (d,).
            weight: of the vectors, 0..1.
            plan: whether neighbours count, and what turns hits into probabilities.
        """
        depth = max(self.k, DEPTH)
        columns = [*self._columns, "vector"] if plan.neighbours else self._columns
        near = self._for_fusion(depth)._nearest(vector, depth, columns)
        words = self._matching(query, depth, [*self._columns, "vector"])
        candidates = _united(near, words)

        # A document found only by its words gets its similarity from its vector.
        others = _matrix(words)[candidates.words_alone]
        similarities = np.concatenate([_similarities(near), similarities_to(vector, others, self.metric)])
        ranked_by: NDArray[Any] = similarities
        if plan.neighbours:
            ranked_by = regularised(similarities, np.concatenate([_matrix(near), others]))
        fused = fuse(
            ranked_by,
            candidates.word_scores,
            weight=weight,
            lowest=-1.0 if self.metric == "cosine" else None,
        )
        best = best_first(fused, max(self.k, HITS))
        worth: Sequence[float | None] = [None] * len(best)
        if plan.relevance is not None:
            features = hit_features(similarities, candidates.word_scores, best)
            worth = plan.relevance.hybrid.probabilities(features).tolist()
        rows = candidates.rows(best[: self.k])
        return [
            self._hit(row, float(score), probability)
            for row, score, probability in zip(rows, fused[best], worth, strict=False)
        ]

    def _for_fusion(self, depth: int) -> SearchRequest:
        """Return the request that re-scores as many vectors for this depth as a search for k results would."""
        parameters = self.parameters
        if parameters.refine == 0:
            return self
        refine = max(1, math.ceil(parameters.refine * self.k / depth))
        return replace(self, parameters=replace(parameters, refine=refine))

    @property
    def _columns(self) -> list[str]:
        return [*SHOWN_COLUMNS, *self.snapshot.metadata]

    def _nearest(self, vector: Vectors, k: int, columns: Sequence[str]) -> pa.Table:
        rows = self._by_distance(vector, k, columns, exact=self.exact)
        if len(rows) < k and not self.exact and self._matches() > len(rows):
            # The index did not reach them: a filter left few, in a graph or far from the query.
            rows = self._by_distance(vector, k, columns, exact=True)
        return rows

    def _by_distance(self, vector: Vectors, k: int, columns: Sequence[str], *, exact: bool) -> pa.Table:
        how: dict[str, Any] = {"use_index": False}
        if not exact:
            how = approximation(self.parameters, k, filtered=self.where is not None)
        nearest = {"column": "vector", "q": vector, "k": k, "metric": self.metric, **how}
        return self._rows([*columns, "_distance"], nearest=nearest)

    def _matching(self, query: str, k: int, columns: Sequence[str]) -> pa.Table:
        return self._rows([*columns, "_score"], full_text_query=matching(query), limit=k)

    def _matches(self) -> int:
        return int(self.snapshot.dataset.count_rows(self.where))

    def _rows(self, columns: list[str], **wanted: Any) -> pa.Table:
        dataset = self.snapshot.dataset
        try:
            scanner = dataset.scanner(columns=columns, filter=self.where, prefilter=True, **wanted)
            rows: pa.Table = scanner.to_table()
        except (OSError, ValueError, RuntimeError) as error:
            hint = ""
            if self.where:
                hint = " A condition looks like: collection = 'scifact' AND year > 2020"
            reason = str(error).splitlines()[0]
            raise VectorIndexError(f"The search failed: {reason}{hint}") from error
        return rows

    def _hit(self, row: Mapping[str, Any], score: float, relevance: float | None = None) -> Hit:
        return hit_of(row, score, self.snapshot.metadata, relevance)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Candidates:
    """Documents that vectors, words or both found: first those near, then those found by words alone.

    Attributes:
        near, words: what each side found.
        words_alone: rows of ``words`` that are not in ``near``.
        word_scores: BM25 scores of all candidates (n,); 0 where no word matches.
    """

    near: pa.Table
    words: pa.Table
    words_alone: NDArray[np.int64]
    word_scores: NDArray[np.float64]

    def rows(self, places: Iterable[int]) -> list[dict[str, Any]]:
        """Return the columns of some candidates."""
        found: list[dict[str, Any]] = []
        for place in places:
            if place < len(self.near):
                table, row = self.near, int(place)
            else:
                table, row = self.words, int(self.words_alone[place - len(self.near)])
            found += table.slice(row, 1).to_pylist()
        return found


def _united(near: pa.Table, words: pa.Table) -> _Candidates:
    place_of = {key: place for place, key in enumerate(near["key"].to_pylist())}
    alone: list[int] = []
    scores = np.zeros(len(near) + len(words))
    for row, (key, score) in enumerate(
        zip(words["key"].to_pylist(), words["_score"].to_pylist(), strict=True)
    ):
        place = place_of.get(key)
        if place is None:
            place = len(near) + len(alone)
            alone.append(row)
        scores[place] = score
    return _Candidates(
        near=near.drop_columns([name for name in near.column_names if name == "vector"]),
        words=words.drop_columns(["vector"]),
        words_alone=np.array(alone, np.int64),
        word_scores=scores[: len(near) + len(alone)],
    )


def _similarities(near: pa.Table) -> Vectors:
    """Return similarities (n,) from Lance's distances, which are 1 - similarity for cosine and dot alike."""
    similarities: Vectors = 1.0 - near["_distance"].to_numpy()
    return similarities


def _matrix(rows: pa.Table) -> Vectors:
    """Return the column of vectors as a matrix (n, d)."""
    column = rows["vector"].combine_chunks()
    flat: Vectors = column.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(column), column.type.list_size)


def approximation(given: SearchParameters, k: int, *, filtered: bool) -> dict[str, float]:
    """Return what Lance is told of how to search an approximate index for k results."""
    how: dict[str, float] = {"nprobes": given.nprobes}
    if filtered:
        # What a filter leaves may be in any partition; a search that ends once there are k
        # would find enough, but not the nearest.
        how = {"search_effort": 1.0}
    if given.ef is not None:
        how["ef"] = max(given.ef, k * max(1, given.refine))
    if given.refine:
        how["refine_factor"] = given.refine
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
