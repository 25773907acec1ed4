"""Give every answer that is not a success the form of OpenAI's error object."""

from __future__ import annotations

import math
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from routerretriever.data.text import is_text
from routerretriever.errors import (
    ExpertError,
    FilterError,
    LibraryError,
    LockedError,
    RouterRetrieverError,
    StorageError,
    VectorIndexError,
)
from routerretriever.server.batching import Closed, Overloaded
from routerretriever.server.schemas.common import MANY, ONE
from routerretriever.server.schemas.embeddings import ID_LISTS, IDS
from routerretriever.server.schemas.errors import ErrorAnswer

# How pydantic names the kinds of value that a field may have: no part of what a client has written.
_KINDS = frozenset({ONE, MANY, IDS, ID_LISTS, "str", "int", "float", "bool"})
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """An answer that is not a success.

    Args:
        status: of the answer.
        message: what is wrong and what to do.
        param: the field that is wrong.
        code: a word for programs.
        retry_after: seconds after which it is worth trying again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.retry_after = retry_after


def answer(error: ApiError) -> JSONResponse:
    """Return the answer that an error becomes."""
    kind = _TYPES.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
    headers: dict[str, str] = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after))
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    # A message may quote half of a surrogate pair, which cannot be sent.
    message = error.message.encode(errors="backslashreplace").decode()
    problem = {"message": message, "type": kind, "param": error.param, "code": error.code}
    return JSONResponse({"error": problem}, error.status, headers)


def from_exception(error: Exception) -> ApiError:
    """Return what a client is told of an error of the package."""
    match error:
        case ApiError():
            return error
        case Overloaded():
            return ApiError(
                429,
                "The server is busy. Try again in a moment.",
                code="overloaded",
                retry_after=error.seconds,
            )
        case Closed():
            return ApiError(503, "The server is going down.", code="going_down", retry_after=5)
        case FilterError():
            return ApiError(400, str(error), param="filter", code="invalid_filter")
        case LibraryError():
            return ApiError(400, str(error), code="no_library")
        case ExpertError():
            return ApiError(400, str(error), code="invalid_expert")
        case VectorIndexError():
            return ApiError(400, str(error), code="invalid_request")
        case LockedError():
            message = "Another process is changing the experts. Try again in a moment."
            return ApiError(503, message, code="busy", retry_after=5)
        case StorageError():
            return ApiError(503, str(error), code="storage", retry_after=60)
        case RouterRetrieverError():
            return ApiError(400, str(error))
    return ApiError(500, "The server failed to answer this request. See its log.", code="internal_error")


def _from_validation(error: RequestValidationError) -> ApiError:
    # A union lists what is wrong with each of its kinds; a wrong kind says less than a wrong value.
    first, *more = sorted(error.errors(), key=lambda found: found["type"].endswith("_type"))
    if first["type"] == "json_invalid":
        return ApiError(400, "The body is not valid JSON.", code="invalid_json")
    _, *place = first["loc"]  # it begins with body, path or query
    where = ", ".join(_part(part) for part in place if part not in _KINDS) or "The body"
    message = first["msg"].removeprefix("Value error, ").removesuffix(".")
    also = f" (and {len(more)} more)" if more else ""
    field = str(place[0]) if place and is_text(str(place[0])) else None
    return ApiError(422, f"{where}: {message}{also}.", param=field, code="invalid_value")


def _part(part: str | int) -> str:
    """Return how a message names a field, or an item of a list."""
    return f"item {part + 1}" if isinstance(part, int) else f"'{part}'"


def install(app: FastAPI) -> None:
    """Answer all errors of an application in one form."""

    async def on_error(request: Request, error: Exception) -> JSONResponse:
        return answer(from_exception(error))

    async def on_validation(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return answer(_from_validation(error))

    async def on_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
        response = answer(ApiError(error.status_code, str(error.detail), code=code))
        response.headers.update(error.headers or {})
        return response

    for kind in (ApiError, Overloaded, Closed, RouterRetrieverError):
        app.add_exception_handler(kind, on_error)
    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(HTTPException, on_http)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return OpenAPI's list of an endpoint's errors; those that every endpoint may give are added."""
    texts = {
        400: "The request cannot be carried out.",
        401: "A key is needed.",
        403: "This key may not do that.",
        404: "It does not exist.",
        409: "It exists already, or is kept elsewhere.",
        413: "Over a limit of the server.",
        422: "A field is wrong.",
        429: "Busy: try again after `Retry-After` seconds.",
        503: "Not ready, or going down.",
    }
    return {status: {"model": ErrorAnswer, "description": texts[status]} for status in (*statuses, 503)}
