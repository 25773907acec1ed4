"""Search, and say what encoded each query: the one path of command, server and integrations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from routerretriever.data.text import check_queries
from routerretriever.index.filters import Condition
from routerretriever.index.index import Index
from routerretriever.index.search import Hit, Mode, SearchParameters, check_mode
from routerretriever.routing.candidates import ROUTED

if TYPE_CHECKING:
    from routerretriever.encoder.protocol import RoutedModel
    from routerretriever.kernels.exact_search import Vectors

_QUERY_BLOCK = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one query found.

    Attributes:
        expert: the candidate that encoded the query: ``base``, ``merged`` or an expert; ``None``
            in mode ``text``, which needs no encoder.
        hits: best first.
    """

    expert: str | None
    hits: list[Hit]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EncodedQueries:
    """Queries, and the vectors that are searched with.

    Attributes:
        queries: the texts.
        vectors: theirs (n, d); ``None`` in mode ``text``.
        experts: what encoded each query.
    """

    queries: Sequence[str]
    vectors: Vectors | None
    experts: Sequence[str | None]


def answer(
    index: Index,
    queries: Sequence[str],
    k: int = 10,
    *,
    expert: str | None = None,
    where: str | Condition | None = None,
    exact: bool = False,
    mode: Mode = "vector",
    parameters: SearchParameters | None = None,
) -> list[Answer]:
    """Encode queries, search with each, and say what encoded it; options are those of :meth:`Index.search`.

    Raises:
        QueryError: a query is empty.
        ExpertError: there is no such expert; in mode ``text``, which uses none, as well.
        VectorIndexError: the condition cannot be understood, or there is no text index.
    """
    check_mode(mode)
    check_queries(queries)
    pinned = None if expert == ROUTED else expert
    if mode != "text":
        encoded = _encode(index, queries, pinned)
    else:
        if pinned is not None:
            _model(index).state.column(pinned)
        encoded = EncodedQueries(queries=queries, vectors=None, experts=[None] * len(queries))
    return answer_encoded(index, encoded, k, where=where, exact=exact, mode=mode, parameters=parameters)


def answer_encoded(
    index: Index,
    encoded: EncodedQueries,
    k: int = 10,
    *,
    where: str | Condition | None = None,
    exact: bool = False,
    mode: Mode = "vector",
    parameters: SearchParameters | None = None,
) -> list[Answer]:
    """Search with queries that were encoded already, as :func:`answer` does."""
    found = index.search_many(
        encoded.queries,
        k,
        vectors=encoded.vectors,
        experts=encoded.experts,
        where=where,
        exact=exact,
        mode=mode,
        parameters=parameters,
    )
    return [Answer(expert=expert, hits=hits) for expert, hits in zip(encoded.experts, found, strict=True)]


def _encode(index: Index, queries: Sequence[str], pinned: str | None) -> EncodedQueries:
    model = _model(index)
    vectors = [np.empty((0, model.encoder.dimension), np.float32)]
    experts: list[str] = []
    for start in range(0, len(queries), _QUERY_BLOCK):
        block = queries[start : start + _QUERY_BLOCK]
        encoded = model.encode_routed(block, [pinned] * len(block))
        vectors.append(encoded.vectors)
        experts += encoded.experts
    return EncodedQueries(queries=queries, vectors=np.concatenate(vectors), experts=experts)


def _model(index: Index) -> RoutedModel:
    return cast("RoutedModel", index.model)
