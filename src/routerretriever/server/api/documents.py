"""Endpoints that add and delete documents."""

from __future__ import annotations

from fastapi import APIRouter, Request

from routerretriever.data.document import Document
from routerretriever.server.access import Access, Right
from routerretriever.server.engine import Engine
from routerretriever.server.guard import needs
from routerretriever.server.problems import ApiError, responses
from routerretriever.server.schemas.documents import (
    DeleteAnswer,
    DeleteRequest,
    DocumentsAnswer,
    DocumentsRequest,
)

router = APIRouter(prefix="/v1", tags=["documents"], dependencies=[needs(Right.DOCUMENTS)])


@router.post(
    "/documents", summary="Add or replace documents", responses=responses(400, 401, 403, 413, 422, 429)
)
async def upsert(body: DocumentsRequest, request: Request) -> DocumentsAnswer:
    """Encode documents with the base and store them; each replaces the one of the same collection and id."""
    engine: Engine = request.app.state.engine
    most = engine.settings.limits.documents
    if len(body.documents) > most:
        raise ApiError(
            413, f"{len(body.documents)} documents are over the limit of {most}.", param="documents"
        )
    documents = [Document(d.id, d.text, d.title, dict(d.metadata)) for d in body.documents]
    access: Access = request.state.access
    written, total = await engine.documents.upsert(documents, body.collection, access)
    return DocumentsAnswer(written=written, documents=total)


@router.delete("/documents", summary="Delete documents", responses=responses(400, 401, 403, 413, 422))
async def delete(body: DeleteRequest, request: Request) -> DeleteAnswer:
    """Delete documents by id; unknown ids are ignored."""
    engine: Engine = request.app.state.engine
    access: Access = request.state.access
    deleted, total = await engine.documents.delete(body.ids, body.collection, access)
    return DeleteAnswer(deleted=deleted, documents=total)
