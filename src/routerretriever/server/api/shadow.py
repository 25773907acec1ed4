"""The endpoint that says what an expert would have changed."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter, Request

from routerretriever.server.access import Right
from routerretriever.server.engine import Engine
from routerretriever.server.guard import needs
from routerretriever.server.problems import ApiError, responses
from routerretriever.server.schemas.shadow import ShadowAnswer

router = APIRouter(prefix="/v1", tags=["experts"], dependencies=[needs(Right.FIGURES)])


@router.get("/shadow", summary="What an expert would change", responses=responses(401, 403, 404))
async def shadow(request: Request) -> ShadowAnswer:
    """Return totals of the expert that was given with `--shadow`."""
    engine: Engine = request.app.state.engine
    if engine.shadow is None:
        message = "No expert runs in the shadow of this server. Start it with --shadow EXPERT."
        raise ApiError(404, message, code="no_shadow")
    totals = asdict(engine.shadow.totals)
    overlap = totals.pop("overlap")
    mean = overlap / totals["routed"] if totals["routed"] else None
    return ShadowAnswer(expert=engine.shadow.expert, mean_overlap=mean, **totals)
