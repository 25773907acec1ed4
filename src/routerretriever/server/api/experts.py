"""Endpoints that list, add and remove experts."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Request, UploadFile

from routerretriever.errors import ExpertError
from routerretriever.lora.expert_info import check_expert_name
from routerretriever.lora.peft_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from routerretriever.routing.candidates import BASE, MERGED
from routerretriever.server.access import Access, Right
from routerretriever.server.engine import Engine
from routerretriever.server.guard import needs
from routerretriever.server.problems import ApiError, responses
from routerretriever.server.schemas.common import MAX_NAME
from routerretriever.server.schemas.experts import ExpertEntry, ExpertsAnswer

router = APIRouter(prefix="/v1", tags=["experts"])
_MAX_CONFIG = 64 * 2**10


@router.get("/experts", summary="The experts", responses=responses(401), dependencies=[needs(Right.READ)])
async def experts(request: Request) -> ExpertsAnswer:
    """Say what each was trained on, its held-out gain, and how many queries it served in the last hour."""
    engine: Engine = request.app.state.engine
    await engine.shared.follow()
    return await _listing(engine, request.state.access)


@router.post(
    "/experts",
    summary="Add an expert",
    status_code=201,
    responses=responses(400, 401, 403, 409, 413, 422),
    dependencies=[needs(Right.EXPERTS)],
)
async def add(
    request: Request,
    name: Annotated[str, Form(max_length=MAX_NAME, examples=["legal"])],
    config: Annotated[UploadFile, File(description="PEFT's adapter_config.json.")],
    weights: Annotated[UploadFile, File(description="PEFT's adapter_model.safetensors.")],
    gains: Annotated[
        str | None,
        Form(
            description="JSON: collection → gain in nDCG@10 over base, or one for each of its measured pilots. "
            "Without it the expert can be pinned, but is not routed to.",
            examples=['{"legal": 0.12}'],
        ),
    ] = None,
    trust_base: Annotated[bool, Form(description="Accept an adapter that names another base.")] = False,
) -> ExpertsAnswer:
    """Add an adapter that plain PEFT trained. Requests in flight finish on the experts they began with."""
    engine: Engine = request.app.state.engine
    try:
        check_expert_name(name)
    except ExpertError as error:
        raise ApiError(400, str(error), param="name", code="invalid_name") from error
    description = await config.read(_MAX_CONFIG + 1)
    if len(description) > _MAX_CONFIG:
        raise ApiError(413, f"The adapter's config is over {_MAX_CONFIG} bytes.", param="config")
    files = {ADAPTER_CONFIG: description, ADAPTER_WEIGHTS: await weights.read()}
    await engine.experts.add(name, files, request.state.access, gains=_gains(gains), trust_base=trust_base)
    return await _listing(engine, request.state.access)


@router.delete(
    "/experts/{name}",
    summary="Remove an expert",
    responses=responses(401, 403, 404, 422),
    dependencies=[needs(Right.EXPERTS)],
)
async def remove(name: str, request: Request) -> ExpertsAnswer:
    """Remove an expert and its gains. Requests in flight finish on the experts they began with."""
    engine: Engine = request.app.state.engine
    await engine.experts.remove(name, request.state.access)
    return await _listing(engine, request.state.access)


def _gains(given: str | None) -> dict[str, Any] | None:
    if given is None:
        return None
    try:
        gains = json.loads(given)
    except (ValueError, RecursionError) as error:
        raise ApiError(422, "The gains are not valid JSON.", param="gains", code="invalid_value") from error
    if not isinstance(gains, dict):
        raise ApiError(
            422, "The gains must be an object: collection → gain.", param="gains", code="invalid_value"
        )
    return gains


async def _listing(engine: Engine, access: Access) -> ExpertsAnswer:
    state = engine.answering.state
    # A key with a scope learns nothing of what others ask, not even how much.
    served = engine.metrics.served.totals(access.name or None)
    library = state.library
    collections = access.seen_collections(library.collections()) if library else []
    unmeasured = library.unmeasured() if library else {}
    entries = [
        ExpertEntry(
            name=name,
            kind=state.experts[name].kind.value,
            collection=info.collection if access.sees_collection(info.collection) else "",
            queries=info.queries,
            held_out=info.held_out,
            base_ndcg=info.base_ndcg,
            expert_ndcg=info.expert_ndcg,
            gain=info.gain,
            p_value=info.p_value,
            selection=str(info.selection),
            selected_by=info.selected_by,
            selection_gain=info.selection_gain,
            gain_on_generated=info.gain_on_generated,
            gain_on_other_styles=info.gain_on_other_styles,
            measured=[c for c in collections if c not in unmeasured.get(name, ())],
            served_last_hour=served[name],
        )
        for name, info in state.infos.items()
        if access.sees_expert(name)
    ]
    others = [name for name in (BASE, MERGED) if name in state.candidates_in(access.scope)]
    return ExpertsAnswer(
        base=engine.model.base.id,
        experts=entries,
        others_last_hour={name: served[name] for name in others},
        documents=await engine.documents.count(access),
        collections=collections,
    )
