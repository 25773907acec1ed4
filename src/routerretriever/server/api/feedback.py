"""The endpoint that keeps what people clicked or judged, for ``routerretriever feedback``."""

from __future__ import annotations

from datetime import UTC, datetime

import orjson
from fastapi import APIRouter, Request

from routerretriever.feedback.log import RefusedLine, parse_line
from routerretriever.server.access import Access, Right
from routerretriever.server.engine import Engine
from routerretriever.server.guard import needs
from routerretriever.server.problems import ApiError, responses
from routerretriever.server.schemas.common import Status
from routerretriever.server.schemas.feedback import FeedbackRequest

router = APIRouter(prefix="/v1", tags=["search"], dependencies=[needs(Right.FEEDBACK)])


@router.post(
    "/feedback",
    summary="Keep what was clicked or judged",
    status_code=201,
    responses=responses(400, 401, 403, 413, 422),
)
async def feedback(body: FeedbackRequest, request: Request) -> Status:
    """Append one line to the server's feedback log; `routerretriever feedback` learns from it later."""
    engine: Engine = request.app.state.engine
    _check_own(body, request.state.access)
    row = body.model_dump(exclude_none=True) | {"time": datetime.now(UTC).isoformat(timespec="seconds")}
    line = orjson.dumps(row)
    try:
        parse_line(line, 1, engine.fingerprint)
    except RefusedLine as error:
        raise ApiError(422, f"The feedback cannot be used: {error}.", code="invalid_value") from error
    await engine.feedback.append(line)
    return Status(status="noted")


def _check_own(body: FeedbackRequest, access: Access) -> None:
    """Refuse documents of collections that do not exist for whoever asks, or of none that is named."""
    for document in (*body.shown, *(body.clicked or ()), *(body.judged or ())):
        if not access.sees_collection(document.collection):
            message = f"This key may not judge documents of the collection '{document.collection}'."
            raise ApiError(403, message, param="shown", code="not_yours")
