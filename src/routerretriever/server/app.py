"""The application: endpoints thin over the engine, in the order of the documentation."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import FileResponse, Response
from fastapi.security import HTTPBearer
from fastapi.staticfiles import StaticFiles

from routerretriever.errors import RouterRetrieverError
from routerretriever.server import memory, problems
from routerretriever.server.api import documents as api_documents
from routerretriever.server.api import embeddings as api_embeddings
from routerretriever.server.api import experts as api_experts
from routerretriever.server.api import feedback as api_feedback
from routerretriever.server.api import search as api_search
from routerretriever.server.engine import Engine
from routerretriever.server.guard import Guard, client_may_read
from routerretriever.server.problems import ApiError, responses
from routerretriever.server.schemas.common import Status
from routerretriever.server.settings import Settings
from routerretriever.version import __version__

LOG = logging.getLogger("routerretriever.server")
PAGE = Path(__file__).parent / "page"
_SWITCH_INTERVAL = 0.0005  # seconds; by default a busy encoder keeps the event loop waiting ten times longer

health = APIRouter(tags=["health"])


def create_app(settings: Settings) -> FastAPI:
    """Return the ASGI application; it answers /health while model and index are loaded."""
    engine = Engine(settings)
    app = FastAPI(
        title="RouterRetriever",
        version=__version__,
        summary="One frozen base encoder, one index, an expert for every domain, and a router between them.",
        lifespan=_lifespan,
        docs_url=None,  # FastAPI's page loads scripts from another host
        redoc_url=None,
    )
    app.state.engine = engine
    problems.install(app)
    app.include_router(health)
    bearer = HTTPBearer(auto_error=False, description="A key of the server's key file, where it has one.")
    guarded = [Depends(bearer), Depends(client_may_read), Depends(model_is_ready)]
    for module in (api_embeddings, api_search, api_feedback, api_documents, api_experts):
        app.include_router(module.router, dependencies=guarded)
    app.mount("/page", StaticFiles(directory=PAGE), name="page")
    app.openapi()  # reads all routes now: FastAPI would do it in the first request, and not safely beside a second app
    app.add_middleware(Guard, engine=engine)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    engine: Engine = app.state.engine
    sys.setswitchinterval(_SWITCH_INTERVAL)
    loading = asyncio.create_task(asyncio.to_thread(_load, engine))
    trimming = asyncio.create_task(memory.keep_trimming())
    following = asyncio.create_task(_follow(engine, loading))
    yield
    trimming.cancel()
    following.cancel()
    await loading
    await asyncio.to_thread(engine.close)


async def _follow(engine: Engine, loading: asyncio.Task[None]) -> None:
    await asyncio.shield(loading)
    if engine.ready:
        await engine.shared.keep_following(engine.settings.follow_seconds)


def _load(engine: Engine) -> None:
    try:
        if not engine.ready:
            engine.load()
        LOG.info("ready: %s", ", ".join(engine.model.state.candidates))
    except RouterRetrieverError as error:
        engine.failure = str(error)
        LOG.error("%s", error)
    except Exception:
        engine.failure = "The model could not be loaded; the server's log says why."
        LOG.exception("The model could not be loaded")


async def model_is_ready(request: Request) -> None:
    """Refuse what needs the model while it is not loaded.

    Raises:
        ApiError: 503.
    """
    engine: Engine = request.app.state.engine
    if not engine.ready:
        message = engine.failure or "The model is still loading. Try again in a moment."
        raise ApiError(503, message, code="not_ready", retry_after=2)


@health.get("/", include_in_schema=False)
async def page() -> FileResponse:
    """Return the page."""
    return FileResponse(PAGE / "index.html")


@health.get("/health", summary="Whether the process is alive")
async def alive() -> Status:
    """Answer as soon as the server listens."""
    return Status(status="alive")


@health.get("/ready", summary="Whether model and index are loaded", responses=responses())
async def ready(_: Annotated[None, Depends(model_is_ready)]) -> Status:
    """Answer 503 until model and index are loaded."""
    return Status(status="ready")


@health.get(
    "/metrics",
    summary="Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **responses(401)},
    dependencies=[Depends(client_may_read)],
)
async def metrics(request: Request) -> Response:
    """Return requests, latencies, batches, queries by expert, abstentions and predicted gains."""
    engine: Engine = request.app.state.engine
    return Response(engine.metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")
