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

from routerretriever.errors import RouterRetrieverError, ServerError
from routerretriever.kernels.threads import available_threads
from routerretriever.server import memory, problems
from routerretriever.server.access import Right
from routerretriever.server.api import documents as api_documents
from routerretriever.server.api import embeddings as api_embeddings
from routerretriever.server.api import experts as api_experts
from routerretriever.server.api import feedback as api_feedback
from routerretriever.server.api import files as api_files
from routerretriever.server.api import search as api_search
from routerretriever.server.api import shadow as api_shadow
from routerretriever.server.engine import Engine
from routerretriever.server.follow_keys import FollowedKeys
from routerretriever.server.guard import Guard, check_declared, model_is_ready, needs
from routerretriever.server.keyring import Keyring
from routerretriever.server.problems import responses
from routerretriever.server.schemas.common import Status
from routerretriever.server.settings import Settings
from routerretriever.version import __version__

LOG = logging.getLogger("routerretriever.server")
PAGE = Path(__file__).parent / "page"
_SWITCH_INTERVAL = 0.0005  # seconds; by default a busy encoder keeps the event loop waiting ten times longer

health = APIRouter(tags=["health"])
ROUTERS = tuple(
    module.router
    for module in (
        api_embeddings,
        api_search,
        api_feedback,
        api_documents,
        api_files,
        api_experts,
        api_shadow,
    )
)


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
    app.state.keyring = Keyring(settings)
    problems.install(app)
    bearer = HTTPBearer(auto_error=False, description="A key of the server's key file, where it has one.")
    for router in (health, *ROUTERS):
        check_declared(router.routes)
        app.include_router(router, dependencies=[] if router is health else [Depends(bearer)])
    app.mount("/page", StaticFiles(directory=PAGE), name="page")
    app.openapi()  # reads all routes now: FastAPI would do it in the first request, and not safely beside a second app
    app.add_middleware(Guard, engine=engine)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    engine: Engine = app.state.engine
    sys.setswitchinterval(_SWITCH_INTERVAL)
    memory.share_heaps(available_threads())
    loading = asyncio.create_task(asyncio.to_thread(_load, engine))
    trimming = asyncio.create_task(memory.keep_trimming())
    following = asyncio.create_task(_follow(engine, app.state.keyring, loading))
    yield
    trimming.cancel()
    following.cancel()
    await loading
    await asyncio.to_thread(engine.close)


async def _follow(engine: Engine, keyring: Keyring, loading: asyncio.Task[None]) -> None:
    await asyncio.shield(loading)
    if not engine.ready:
        return
    settings = engine.settings
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(engine.shared.keep_following(settings.follow_seconds))
        if settings.key_file is not None:
            keys = FollowedKeys(settings.key_file, keyring, engine.check_keys)
            tasks.create_task(keys.keep_following(settings.follow_seconds))


def _load(engine: Engine) -> None:
    try:
        if not engine.ready:
            engine.load()
        LOG.info("ready: %s", ", ".join(engine.answering.state.experts) or "the base, without experts yet")
    except ServerError as error:
        # It names experts and collections, and whoever asks has shown no key.
        engine.failure = "The server was not set up correctly; its log says why."
        LOG.error("%s", error)
    except RouterRetrieverError as error:
        engine.failure = str(error)
        LOG.error("%s", error)
    except Exception:
        engine.failure = "The model could not be loaded; the server's log says why."
        LOG.exception("The model could not be loaded")


@health.get("/", include_in_schema=False, dependencies=[needs(None)])
async def page() -> FileResponse:
    """Return the page."""
    return FileResponse(PAGE / "index.html")


@health.get("/health", summary="Whether the process is alive", dependencies=[needs(None)])
async def alive() -> Status:
    """Answer as soon as the server listens."""
    return Status(status="alive")


@health.get(
    "/ready",
    summary="Whether model and index are loaded",
    responses=responses(),
    dependencies=[needs(None)],
)
async def ready(_: Annotated[None, Depends(model_is_ready)]) -> Status:
    """Answer 503 until model and index are loaded."""
    return Status(status="ready")


@health.get(
    "/metrics",
    summary="Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **responses(401, 403)},
    dependencies=[needs(Right.FIGURES, loaded=False)],
)
async def metrics(request: Request) -> Response:
    """Return requests, latencies, batches, queries by expert, abstentions and predicted gains."""
    engine: Engine = request.app.state.engine
    return Response(engine.metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")
