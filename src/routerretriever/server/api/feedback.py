"""The endpoint that keeps what people clicked or judged, for ``routerretriever feedback``."""

from __future__ import annotations

from datetime import UTC, datetime

import orjson
from fastapi import APIRouter, Request

from routerretriever.feedback.log import RefusedLine, parse_line
from routerretriever.server.engine import Engine
from routerretriever.server.problems import ApiError, responses
from routerretriever.server.schemas.common import Status
from routerretriever.server.schemas.feedback import FeedbackRequest

router = APIRouter(prefix="/v1", tags=["search"])


@router.post(
    "/feedback",
    summary="Keep what was clicked or judged",
    status_code=201,
    responses=responses(400, 401, 413, 422),
)
async def feedback(body: FeedbackRequest, request: Request) -> Status:
    """Append one line to the server's feedback log; `routerretriever feedback` learns from it later."""
    engine: Engine = request.app.state.engine
    row = body.model_dump(exclude_none=True) | {"time": datetime.now(UTC).isoformat(timespec="seconds")}
    line = orjson.dumps(row)
    try:
        parse_line(line, 1, engine.fingerprint)
    except RefusedLine as error:
        raise ApiError(422, f"The feedback cannot be used: {error}.", code="invalid_value") from error
    await engine.feedback.append(line)
    return Status(status="noted")
