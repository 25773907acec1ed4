"""Searching an index: queries encoded by the model, then answered by one snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from routerretriever.errors import VectorIndexError
from routerretriever.index.blocks import blocks
from routerretriever.index.encoder import Encoder, Vectors
from routerretriever.index.parameters import SearchParameters, is_whole
from routerretriever.index.search import SearchRequest
from routerretriever.index.view import View
from routerretriever.routing.search_plan import WORDS_ALONE, SearchPlan

_QUERY_BLOCK = 64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EncodedQueries:
    """Queries, and what is searched with.

    Attributes:
        queries: the texts.
        vectors: theirs (n, d); ``None`` in mode ``text``.
        experts: what encoded each query.
        plans: how the index is searched with each.
    """

    queries: Sequence[str]
    vectors: Vectors | None
    experts: Sequence[str | None]
    plans: Sequence[SearchPlan]


def search_request(
    view: View,
    k: int,
    *,
    exact: bool = False,
    parameters: SearchParameters | None = None,
    passages: bool = False,
) -> SearchRequest:
    """Return a request for k documents of a view.

    Raises:
        VectorIndexError: k is no whole number, or below 1.
    """
    if not is_whole(k) or k < 1:
        raise VectorIndexError(f"k must be at least 1, and a whole number, but is {k!r}.")
    return SearchRequest(
        view=view, k=k, exact=exact, parameters=parameters or SearchParameters(), passages=passages
    )


def encode_queries(model: Encoder, queries: Sequence[str], pinned: str | None) -> EncodedQueries:
    """Encode queries, in blocks.

    Args:
        model: encodes them.
        queries: any number.
        pinned: the candidate that encodes them all; ``None`` routes.
    """
    vectors = [np.empty((0, model.dimension), np.float32)]
    experts: list[str | None] = []
    plans: list[SearchPlan] = []
    for block in blocks(queries, _QUERY_BLOCK):
        encoded = model.encode_routed(block, [pinned] * len(block))
        vectors.append(encoded.vectors)
        experts += encoded.experts
        plans += encoded.plans
    return EncodedQueries(queries=queries, vectors=np.concatenate(vectors), experts=experts, plans=plans)


def by_words_alone(queries: Sequence[str]) -> EncodedQueries:
    """Return queries that need no encoder, for mode ``text``."""
    return EncodedQueries(
        queries=queries, vectors=None, experts=[None] * len(queries), plans=[WORDS_ALONE] * len(queries)
    )
