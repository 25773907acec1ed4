"""Search, and say what encoded each query: the one path of command, server and integrations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from routerretriever.data.text import check_queries
from routerretriever.index.encoder import Vectors
from routerretriever.index.filters import Condition
from routerretriever.index.index import Index
from routerretriever.index.querying import encode_queries
from routerretriever.index.search import Hit, Mode, SearchParameters, check_mode
from routerretriever.routing.candidates import ROUTED

if TYPE_CHECKING:
    from routerretriever.encoder.protocol import RoutedModel


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
        vectors, experts = encode_queries(index.model, queries, pinned)
        encoded = EncodedQueries(queries=queries, vectors=vectors, experts=experts)
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


def _model(index: Index) -> RoutedModel:
    return cast("RoutedModel", index.model)
