"""Reading an index: by vectors, by words, or by both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from lance.query import FullTextOperator, MultiMatchQuery

from routerretriever.errors import VectorIndexError
from routerretriever.index.connection import Snapshot
from routerretriever.index.fusion import DEPTH, fuse, vector_weight
from routerretriever.index.kinds import TEXT_COLUMNS, Metric
from routerretriever.index.schema import SHOWN_COLUMNS, collection_and_id

if TYPE_CHECKING:
    from routerretriever.kernels.exact_search import Vectors

Mode = Literal["vector", "text", "hybrid"]
MODES: tuple[str, ...] = get_args(Mode)


@dataclass(frozen=True, slots=True)
class Hit:
    """One search result.

    ``score`` is the similarity of query and document vector; in mode ``text`` the BM25 score, in mode ``hybrid`` the
    fused score of :func:`routerretriever.fusion.fuse`.
    """

    id: str
    score: float
    title: str
    text: str
    collection: str
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class SearchParameters:
    """How hard an approximate index is searched (more finds more and takes longer), and how both sides are fused.

    Attributes:
        nprobes: partitions searched for every query; where there is a filter, all are.
        refine: candidates re-scored with their full vectors for every wanted result; 0 keeps the index's scores.
        ef: nodes kept while searching a graph (``hnsw`` only), at least as many as are re-scored; ``None`` leaves it to
            Lance.
        vector_weight: share of the vectors in mode ``hybrid``, 0..1; ``None`` goes by what encoded the query, as
            :func:`routerretriever.fusion.vector_weight` says.
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


@dataclass(frozen=True, slots=True)
class Reader:
    """One request: what all its queries share.

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
        """The k nearest to a vector (d,), best first."""
        return [self._hit(row, similarity(row)) for row in self._nearest(vector, self.k, self._columns)]

    def by_text(self, query: str) -> list[Hit]:
        """The k best under BM25, best first; none if no document has a word of the query."""
        return [self._hit(row, float(row["_score"])) for row in self._matching(query, self.k, self._columns)]

    def by_both(self, query: str, vector: Vectors, expert: str | None) -> list[Hit]:
        """The k best of the fused ranking of both sides' candidates, best first.

        A text candidate's similarity is computed from its vector.
        """
        depth = max(self.k, DEPTH)
        near = {row["key"]: row for row in self._nearest(vector, depth, self._columns)}
        matching = {row["key"]: row for row in self._matching(query, depth, [*self._columns, "vector"])}
        scores = {key: similarity(row) for key, row in near.items()}
        scores |= {
            key: self._similarity_to(vector, row["vector"]) for key, row in matching.items() if key not in scores
        }
        words = {key: float(row["_score"]) for key, row in matching.items()}
        floor = -1.0 if self.metric == "cosine" else None
        given = self.parameters.vector_weight
        fused = fuse(scores, words, weight=vector_weight(expert) if given is None else given, floor=floor)
        return [self._hit(near.get(key) or matching[key], score) for key, score in fused[: self.k]]

    @property
    def _columns(self) -> list[str]:
        return [*SHOWN_COLUMNS, *self.snapshot.metadata]

    def _nearest(self, vector: Vectors, k: int, columns: Sequence[str]) -> list[dict[str, Any]]:
        rows = self._by_distance(vector, k, columns, exact=self.exact)
        if len(rows) < k and not self.exact and self._matches() > len(rows):
            # The index did not reach them: a filter that leaves little, in a graph or far from the query.
            rows = self._by_distance(vector, k, columns, exact=True)
        return rows

    def _by_distance(self, vector: Vectors, k: int, columns: Sequence[str], *, exact: bool) -> list[dict[str, Any]]:
        how = {"use_index": False} if exact else approximation(self.parameters, k, filtered=self.where is not None)
        nearest = {"column": "vector", "q": vector, "k": k, "metric": self.metric, **how}
        return self._rows([*columns, "_distance"], nearest=nearest)

    def _matching(self, query: str, k: int, columns: Sequence[str]) -> list[dict[str, Any]]:
        # A match query is not parsed, so that no sign in it is an operator.
        words = MultiMatchQuery(query, list(TEXT_COLUMNS), operator=FullTextOperator.OR)
        return self._rows([*columns, "_score"], full_text_query=words, limit=k)

    def _matches(self) -> int:
        return int(self.snapshot.dataset.count_rows(self.where))

    def _rows(self, columns: list[str], **wanted: Any) -> list[dict[str, Any]]:
        try:
            scanner = self.snapshot.dataset.scanner(columns=columns, filter=self.where, prefilter=True, **wanted)
            rows: list[dict[str, Any]] = scanner.to_table().to_pylist()
        except (OSError, ValueError, RuntimeError) as error:
            hint = " A condition looks like: collection = 'scifact' AND year > 2020" if self.where else ""
            raise VectorIndexError(f"The search failed: {str(error).splitlines()[0]}{hint}") from error
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
    """What Lance is told of how to search an approximate index for k results."""
    # What a filter leaves may lie in any partition; searching until there are k finds enough, but not the nearest.
    how: dict[str, float] = {"search_effort": 1.0} if filtered else {"nprobes": given.nprobes}
    if given.ef is not None:
        how["ef"] = max(given.ef, k * max(1, given.refine))
    if given.refine:
        how["refine_factor"] = given.refine
    return how


def hit_of(row: Mapping[str, Any], score: float, metadata: Sequence[str]) -> Hit:
    """A row as a result; metadata fields that a document does not have are left out."""
    known = {name: row[name] for name in metadata if row[name] is not None}
    collection, document_id = collection_and_id(row["key"])
    return Hit(document_id, score, row["title"] or "", row["text"], collection, known)


def similarity(row: Mapping[str, Any]) -> float:
    """Of LanceDB's distance, which is 1 - similarity for cosine and dot product alike."""
    return 1.0 - float(row["_distance"])


def check_mode(mode: str) -> None:
    """Refuse a mode that does not exist."""
    if mode not in MODES:
        raise VectorIndexError(f"There is no search mode '{mode}'. Choose one of: {', '.join(MODES)}.")
