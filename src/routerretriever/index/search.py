"""Reading an index: by vectors, by words, or by both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from lance.query import FullTextOperator, MultiMatchQuery

from routerretriever.errors import VectorIndexError
from routerretriever.index.encoder import Vectors
from routerretriever.index.fields import is_missing
from routerretriever.index.fusion import DEPTH, fuse, vector_weight
from routerretriever.index.kinds import TEXT_COLUMNS
from routerretriever.index.schema import SHOWN_COLUMNS, collection_and_id
from routerretriever.index.snapshot import Snapshot
from routerretriever.index.table import Metric

Mode = Literal["vector", "text", "hybrid"]
MODES: tuple[str, ...] = get_args(Mode)


@dataclass(frozen=True, slots=True)
class Hit:
    """One search result.

    ``score`` is the similarity of query and document vector; in mode ``text`` the BM25 score,
    in mode ``hybrid`` the fused score of :func:`routerretriever.index.fusion.fuse`.
    """

    id: str
    score: float
    title: str
    text: str
    collection: str
    metadata: Mapping[str, Any] = field(default_factory=dict)

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
        vector_weight: weight of the vectors in mode ``hybrid``, 0..1; ``None`` depends on what
            encoded the query, as :func:`routerretriever.index.fusion.vector_weight` says.
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

    def by_vector(self, vector: Vectors) -> list[Hit]:
        """Return the k documents nearest to a vector (d,), best first."""
        rows = self._nearest(vector, self.k, self._columns)
        return [self._hit(row, similarity(row)) for row in rows]

    def by_text(self, query: str) -> list[Hit]:
        """Return the k best documents under BM25, best first.

        There are none if no document has a word of the query.
        """
        rows = self._matching(query, self.k, self._columns)
        return [self._hit(row, float(row["_score"])) for row in rows]

    def by_both(self, query: str, vector: Vectors, expert: str | None) -> list[Hit]:
        """Return the k best documents of the fused ranking of both sides, best first.

        Args:
            query: the text.
            vector: the query's (d,).
            expert: what encoded it; ``None`` is the base.
        """
        depth = max(self.k, DEPTH)
        near = {row["key"]: row for row in self._nearest(vector, depth, self._columns)}
        matching_columns = [*self._columns, "vector"]
        matching = {row["key"]: row for row in self._matching(query, depth, matching_columns)}

        # A document found only by its words gets its similarity from its vector.
        similarities = {key: similarity(row) for key, row in near.items()}
        for key, row in matching.items():
            if key not in similarities:
                similarities[key] = self._similarity_to(vector, row["vector"])

        given = self.parameters.vector_weight
        fused = fuse(
            similarities,
            {key: float(row["_score"]) for key, row in matching.items()},
            weight=vector_weight(expert) if given is None else given,
            floor=-1.0 if self.metric == "cosine" else None,
        )
        best = fused[: self.k]
        return [self._hit(near.get(key) or matching[key], score) for key, score in best]

    @property
    def _columns(self) -> list[str]:
        return [*SHOWN_COLUMNS, *self.snapshot.metadata]

    def _nearest(self, vector: Vectors, k: int, columns: Sequence[str]) -> list[dict[str, Any]]:
        rows = self._by_distance(vector, k, columns, exact=self.exact)
        if len(rows) < k and not self.exact and self._matches() > len(rows):
            # The index did not reach them: a filter left few, in a graph or far from the query.
            rows = self._by_distance(vector, k, columns, exact=True)
        return rows

    def _by_distance(
        self, vector: Vectors, k: int, columns: Sequence[str], *, exact: bool
    ) -> list[dict[str, Any]]:
        how: dict[str, Any] = {"use_index": False}
        if not exact:
            how = approximation(self.parameters, k, filtered=self.where is not None)
        nearest = {"column": "vector", "q": vector, "k": k, "metric": self.metric, **how}
        return self._rows([*columns, "_distance"], nearest=nearest)

    def _matching(self, query: str, k: int, columns: Sequence[str]) -> list[dict[str, Any]]:
        # A match query is not parsed, so that no sign in it is an operator.
        words = MultiMatchQuery(query, list(TEXT_COLUMNS), operator=FullTextOperator.OR)
        return self._rows([*columns, "_score"], full_text_query=words, limit=k)

    def _matches(self) -> int:
        return int(self.snapshot.dataset.count_rows(self.where))

    def _rows(self, columns: list[str], **wanted: Any) -> list[dict[str, Any]]:
        dataset = self.snapshot.dataset
        try:
            scanner = dataset.scanner(columns=columns, filter=self.where, prefilter=True, **wanted)
            rows: list[dict[str, Any]] = scanner.to_table().to_pylist()
        except (OSError, ValueError, RuntimeError) as error:
            hint = ""
            if self.where:
                hint = " A condition looks like: collection = 'scifact' AND year > 2020"
            reason = str(error).splitlines()[0]
            raise VectorIndexError(f"The search failed: {reason}{hint}") from error
        return rows

    def _similarity_to(self, vector: Vectors, other: Sequence[float]) -> float:
        document = np.asarray(other, dtype=np.float32)
        product = float(document @ vector)
        if self.metric == "dot":
            return product
        norms = float(np.linalg.norm(document) * np.linalg.norm(vector))
        return product / norms if norms else 0.0

    def _hit(self, row: Mapping[str, Any], score: float) -> Hit:
        return hit_of(row, score, self.snapshot.metadata)


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


def hit_of(row: Mapping[str, Any], score: float, metadata: Sequence[str]) -> Hit:
    """Return a row as a result; metadata fields that a document does not have are left out."""
    collection, document_id = collection_and_id(row["key"])
    return Hit(
        id=document_id,
        score=score,
        title=row["title"] or "",
        text=row["text"],
        collection=collection,
        metadata={name: row[name] for name in metadata if not is_missing(row[name])},
    )


def similarity(row: Mapping[str, Any]) -> float:
    """Return the similarity, from LanceDB's distance.

    The distance is 1 - similarity, for cosine and dot product alike.
    """
    return 1.0 - float(row["_distance"])


def check_mode(mode: str) -> None:
    """Refuse a mode that does not exist.

    Raises:
        VectorIndexError: there is no such mode.
    """
    if mode not in MODES:
        raise VectorIndexError(f"There is no search mode '{mode}'. Choose one of: {', '.join(MODES)}.")
