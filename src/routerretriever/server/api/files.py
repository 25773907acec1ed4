"""Endpoints for what was indexed: the list, uploads, and the files themselves."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, File, Form, Query, Request, UploadFile
from fastapi.responses import FileResponse

from routerretriever.server.access import Access, Right
from routerretriever.server.engine import Engine
from routerretriever.server.guard import needs
from routerretriever.server.problems import ApiError, responses
from routerretriever.server.schemas.common import MAX_NAME, Text
from routerretriever.server.schemas.files import IndexedAnswer, UploadAnswer, UploadedFile
from routerretriever.server.uploads import Upload

UPLOADS = "uploads"
"""Collection of uploaded files, unless another is named."""

_MOST_LISTED = 200
_HARMLESS = {
    # Also where a browser opens it by itself: no script runs, and nothing is loaded.
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}

router = APIRouter(tags=["files"])


@router.get(
    "/v1/files",
    summary="What is in the index",
    responses=responses(400, 401, 422),
    dependencies=[needs(Right.READ)],
)
async def indexed(
    request: Request,
    offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
    limit: Annotated[int, Query(ge=0, le=_MOST_LISTED)] = 50,
) -> IndexedAnswer:
    """Count documents, passages and collections, and list the documents that were written last."""
    engine: Engine = request.app.state.engine
    access: Access = request.state.access
    held = await asyncio.to_thread(engine.documents.held, access, offset, limit)
    files_of = None if engine.files is None else engine.files.collection
    return IndexedAnswer.model_validate(
        {
            **held,
            "files_of": files_of if files_of is not None and access.sees_collection(files_of) else None,
            "writable": Right.DOCUMENTS in access.rights,
        }
    )


@router.post(
    "/v1/files",
    summary="Index files",
    responses=responses(400, 401, 403, 409, 413, 422, 429),
    dependencies=[needs(Right.DOCUMENTS)],
)
async def upload(
    request: Request,
    files: Annotated[list[UploadFile], File(description="Markdown, text, HTML, PDF, Office, CSV or e-mail.")],
    collection: Annotated[Text, Form(max_length=MAX_NAME, examples=[UPLOADS])] = UPLOADS,
) -> UploadAnswer:
    """Read files in a process of their own, and index each as a document whose id is its name.

    A file that cannot be read stops no other: the answer says why. Only its text is kept.
    """
    engine: Engine = request.app.state.engine
    access: Access = request.state.access
    await _check_form(request)
    served = None if engine.files is None else engine.files.collection
    if collection == served and access.sees_collection(collection):
        raise ApiError(
            409,
            f"The collection '{collection}' is a folder that is served. Put the files there and run the command again, "
            f"or choose another collection, such as '{UPLOADS}'.",
            param="collection",
            code="served_folder",
        )
    uploads = [Upload(file.filename or "", file.size or 0, file.file) for file in files]
    outcomes = await engine.uploads.add(uploads, collection, access)
    entries = [
        UploadedFile(name=found.name, indexed=not found.problem, problem=found.problem or None)
        for found in outcomes
    ]
    return UploadAnswer(files=entries, documents=await engine.documents.count(access) or 0)


async def _check_form(request: Request) -> None:
    """Refuse fields that the form does not have, as JSON endpoints do."""
    unknown = set(await request.form()) - {"files", "collection"}
    if unknown:
        named = ", ".join(sorted(unknown))
        raise ApiError(422, f"There is no field {named}. The form has files and collection.", param=named)


@router.head("/files/{name:path}", include_in_schema=False, dependencies=[needs(Right.READ)])
@router.get(
    "/files/{name:path}",
    summary="A file that was indexed",
    response_class=FileResponse,
    responses={200: {"content": {"application/octet-stream": {}}}, **responses(401, 404)},
    dependencies=[needs(Right.READ)],
)
async def file(name: str, request: Request) -> FileResponse:
    """Return a file of the served folder: text as plain text, everything else as a download.

    Only files that are in the index, and exist for the key that asks, are there at all.
    """
    engine: Engine = request.app.state.engine
    access: Access = request.state.access
    found = None if engine.files is None else await asyncio.to_thread(engine.files.find, name)
    if (
        engine.files is None
        or found is None
        or not await asyncio.to_thread(
            engine.documents.holds, {"id": name, "collection": engine.files.collection}, access
        )
    ):
        raise ApiError(404, "There is no such file in the index.", code="not_found")
    return FileResponse(
        found.path,
        media_type="text/plain; charset=utf-8" if found.is_text else "application/octet-stream",
        filename=found.path.name,
        content_disposition_type="inline" if found.is_text else "attachment",
        headers=_HARMLESS,
    )
