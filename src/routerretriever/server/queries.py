"""Answer queries: search, routes, and the map of pilots."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np

from routerretriever.expert_state import no_library
from routerretriever.index.answer import Answer, SearchOptions
from routerretriever.index.filters import Condition
from routerretriever.index.index import Index
from routerretriever.index.querying import EncodedQueries, by_words_alone
from routerretriever.index.rerank import Reranks
from routerretriever.index.search import Mode
from routerretriever.kernels.vectors import Vectors
from routerretriever.routing.candidates import ROUTED
from routerretriever.routing.explain import Route, explain_routes
from routerretriever.routing.policy import RoutingPolicy
from routerretriever.routing.scope import RoutingScope
from routerretriever.server.access import Access
from routerretriever.server.answering import Answering
from routerretriever.server.encode_batch import Encoded
from routerretriever.server.metrics import Metrics
from routerretriever.server.pilot_map import PilotMap
from routerretriever.server.problems import ApiError
from routerretriever.server.seen_fields import SeenFields
from routerretriever.server.shadow import Asked, Shadow
from routerretriever.server.spans import Attribute, Spans
from routerretriever.server.text_encoder import TextEncoder

Place = tuple[float, float]


def required_index(index: Index | None) -> Index:
    """Return the index.

    Raises:
        ApiError: the server was started without one.
    """
    if index is None:
        message = "This server has no index. Start it with --index INDEX to search."
        raise ApiError(400, message, code="no_index")
    return index


class QueryService:
    """Searches, routes and draws; belongs to the event loop.

    Args:
        answering: whose routing is explained.
        shadow: is offered the searches that were routed, if there is one.
        index: that is searched, if there is one.
        encoder: encodes the queries.
        reranker: orders the best hits of searches that ask for it, if there is one.
        metrics: are told how long each stage took.
        spans: are told the same.
    """

    def __init__(
        self,
        *,
        answering: Answering,
        shadow: Shadow | None,
        index: Index | None,
        encoder: TextEncoder,
        reranker: Reranks | None,
        metrics: Metrics,
        spans: Spans,
    ) -> None:
        self._answering = answering
        self._shadow = shadow
        self._index = index
        self._encoder = encoder
        self._reranker = reranker
        self._stages = metrics.stages
        self._spans = spans
        self._maps: dict[RoutingScope | None, PilotMap] = {}
        self._fields = SeenFields()
        self._drawing = asyncio.Lock()

    async def search(
        self,
        queries: Sequence[str],
        k: int,
        access: Access,
        *,
        expert: str | None,
        where: Condition | None,
        exact: bool,
        mode: Mode | None = None,
        rerank: bool = False,
        min_relevance: float | None = None,
        passages: bool = False,
    ) -> list[Answer]:
        """Return, for each query, what encoded it and its hits; words alone need no encoder.

        Raises:
            ApiError: there is no index, no reranker, no such candidate, or a limit is exceeded.
            FilterError: the condition names a field that does not exist for whoever asks.
        """
        index = required_index(self._index)
        reranker = self._required_reranker() if rerank else None
        items: list[Encoded] = []
        if mode == "text":
            self._encoder.check_texts(queries)
            await self._encoder.checked_candidate(expert, access)
            encoded = by_words_alone(queries)
        else:
            items = await self._encoder.queries(queries, access, expert)
            encoded = _as_encoded(queries, items)

        options: SearchOptions = {
            "where": access.where(where),
            "exact": exact,
            "mode": mode,
            "rerank": reranker,
            "min_relevance": min_relevance,
            "passages": passages,
        }

        def answer() -> list[Answer]:
            if where is not None:
                self._fields.check(where, index, access)
            return index.answer_encoded(encoded, k, **options)

        noted: dict[str, Attribute] = {
            "texts": len(queries),
            "k": k,
            "index": index.uri,
        }
        noted["experts"] = sorted({name for name in encoded.experts if name is not None})
        with self._stages.labels("search").time(), self._spans.stage("search", **noted):
            answers = await asyncio.to_thread(answer)

        if items and expert in (None, ROUTED) and reranker is None:
            self._offer(queries, items, answers, k, access.scope, options)
        return answers

    def _offer(
        self,
        queries: Sequence[str],
        items: Sequence[Encoded],
        answers: Sequence[Answer],
        k: int,
        scope: RoutingScope | None,
        options: SearchOptions,
    ) -> None:
        if self._shadow is None:
            return
        asked = Asked(
            queries=queries,
            route_embeddings=_route_embeddings(items),
            answers=answers,
            scope=scope,
            k=k,
            options=options,
        )
        self._shadow.offer(asked)

    def _required_reranker(self) -> Reranks:
        if self._reranker is None:
            message = "This server has no reranker. Start it with --rerank MODEL, or leave out 'rerank'."
            raise ApiError(400, message, code="no_reranker")
        return self._reranker

    async def route(
        self, queries: Sequence[str], pilots: int, access: Access
    ) -> list[tuple[Route, Place | None]]:
        """Return where queries go and why, and their places on the map if it was drawn.

        Raises:
            LibraryError: the model has no pilot library.
        """
        self._answering.state.required_policy(access.scope)
        encoded = await self._encoder.queries(queries, access)
        policy = encoded[0].policy
        if policy is None:  # the library came while the queries were encoded
            policy = self._answering.state.required_policy(access.scope)
        embeddings = _route_embeddings(encoded)
        noted: dict[str, Attribute] = {"texts": len(queries), "pilots": pilots}
        with self._stages.labels("route").time(), self._spans.stage("explain", **noted):
            shown = pilots if access.sees_pilots else 0
            routes = await asyncio.to_thread(explain_routes, policy, queries, embeddings, shown)
        return list(zip(routes, self._places(policy, embeddings, access.scope), strict=True))

    def _places(
        self, policy: RoutingPolicy, embeddings: Vectors, scope: RoutingScope | None
    ) -> Sequence[Place | None]:
        drawn = self._maps.get(scope)
        if drawn is None or drawn.policy is not policy:
            return [None] * len(embeddings)
        return drawn.place(embeddings)

    async def pilot_map(self, access: Access) -> PilotMap:
        """Return the map of the pilots that exist for whoever asks, drawn when it is first asked for.

        Raises:
            LibraryError: the model has no pilot library.
        """
        policy = self._answering.state.required_policy(access.scope)
        if not access.sees_pilots:
            raise no_library()
        async with self._drawing:
            drawn = self._maps.get(access.scope)
            if drawn is None or drawn.policy is not policy:
                drawn = self._maps[access.scope] = await asyncio.to_thread(PilotMap.draw, policy)
            return drawn


def _route_embeddings(encoded: Sequence[Encoded]) -> Vectors:
    """Return what the queries were routed by (n, d_route)."""
    found = [item.route_embedding for item in encoded if item.route_embedding is not None]
    return np.concatenate(found)


def _as_encoded(queries: Sequence[str], encoded: Sequence[Encoded]) -> EncodedQueries:
    """Return queries in the form in which the index is searched."""
    return EncodedQueries(
        queries=queries,
        vectors=np.stack([item.vector for item in encoded]),
        experts=[item.expert for item in encoded],
        plans=[item.plan for item in encoded],
    )
