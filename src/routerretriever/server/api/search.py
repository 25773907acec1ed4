"""Endpoints that search, explain routes and draw the map."""

from __future__ import annotations

from typing import Literal

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response

from routerretriever.server.access import Right
from routerretriever.server.engine import Engine
from routerretriever.server.guard import needs
from routerretriever.server.problems import responses
from routerretriever.server.schemas.routes import MapAnswer, RouteAnswer, RouteRequest
from routerretriever.server.schemas.search import SearchAnswer, SearchRequest

router = APIRouter(prefix="/v1", tags=["search"], dependencies=[needs(Right.READ)])


@router.post(
    "/search",
    summary="Find documents",
    response_model=SearchAnswer,
    responses=responses(400, 401, 404, 413, 422, 429),
)
async def search(body: SearchRequest, request: Request) -> Response:
    """Route every query, or encode it with a pinned expert, and search by vectors, words or both."""
    engine: Engine = request.app.state.engine
    answers = await engine.queries.search(
        body.queries,
        body.k,
        request.state.access,
        expert=body.expert,
        where=body.filter,
        exact=body.exact,
        mode=body.mode,
        rerank=body.rerank,
        min_relevance=body.min_relevance,
        passages=body.passages,
    )
    found = zip(body.queries, answers, strict=True)
    results = [{"query": query, **answer.to_dict()} for query, answer in found]
    return Response(
        orjson.dumps({"fingerprint": engine.fingerprint, "results": results}), media_type="application/json"
    )


@router.post("/route", summary="Say where queries go, and why", responses=responses(400, 401, 413, 422, 429))
async def route(body: RouteRequest, request: Request) -> RouteAnswer:
    """Return predicted gains of every candidate, the nearest pilots, and the reason for the choice."""
    engine: Engine = request.app.state.engine
    found = await engine.queries.route(body.queries, body.pilots, request.state.access)
    return RouteAnswer.model_validate(
        {"routes": [route.to_dict() | {"position": place} for route, place in found]}
    )


@router.get("/map", summary="Pilots in two dimensions", responses=responses(400, 401))
async def pilot_map(request: Request) -> MapAnswer:
    """Return a sample of pilots and training queries; the first request takes some seconds."""
    engine: Engine = request.app.state.engine
    drawn = await engine.queries.pilot_map(request.state.access)
    scores: Literal["gain", "similarity"] = "gain" if drawn.policy.router.knows_base else "similarity"
    return MapAnswer(points=list(drawn.points), scores=scores)
