"""OpenAI's endpoints: embeddings and models."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response

from routerretriever.encoder.token_ids import TokenIds
from routerretriever.kernels.vectors import Vectors
from routerretriever.routing.candidates import ROUTED
from routerretriever.server.access import Access, Right
from routerretriever.server.encode_batch import Encoded
from routerretriever.server.engine import Engine
from routerretriever.server.guard import needs
from routerretriever.server.problems import ApiError, responses
from routerretriever.server.schemas.embeddings import (
    EmbeddingsAnswer,
    EmbeddingsRequest,
    ModelEntry,
    ModelsAnswer,
)

router = APIRouter(prefix="/v1", tags=["embeddings"], dependencies=[needs(Right.READ)])


@router.post(
    "/embeddings",
    summary="Vectors of queries or documents",
    response_model=EmbeddingsAnswer,
    responses=responses(400, 401, 404, 413, 422, 429),
)
async def embeddings(body: EmbeddingsRequest, request: Request) -> Response:
    """Encode texts. `model` says what encodes queries; documents are always encoded by the base."""
    engine: Engine = request.app.state.engine
    model, is_query = engine.model, body.input_type == "query"
    texts = _texts(body.input, model.tokenizer if is_query else model.document_tokenizer)
    access: Access = request.state.access
    await engine.encoder.checked_candidate(body.model, access)
    most = model.dimension
    if body.dimensions is not None and body.dimensions > most:
        raise ApiError(400, f"The vectors have {most} dimensions.", param="dimensions", code="invalid_value")
    engine.encoder.check_texts(texts)
    if is_query:
        encoded = await engine.encoder.queries(texts, access, body.model)
    else:
        encoded = await engine.encoder.documents(texts, access)
    rows = _rows(encoded, body)
    tokens = sum(item.tokens for item in encoded)
    content = {
        "object": "list",
        "data": rows,
        "model": body.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    return Response(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


@router.get("/models", summary="What may encode queries", responses=responses(401))
async def models(request: Request) -> ModelsAnswer:
    """List `routed`, `base`, `merged` and every expert, as far as they exist for this key."""
    engine: Engine = request.app.state.engine
    await engine.shared.follow()
    access: Access = request.state.access
    names = (ROUTED, *engine.answering.state.candidates_in(access.scope))
    owner = "routerretriever"
    return ModelsAnswer(
        data=[ModelEntry(id=name, created=engine.loaded_at, owned_by=owner) for name in names]
    )


def _texts(given: str | Sequence[Any], tokenizer: Any) -> list[str | TokenIds]:
    """Return the texts of a request, each a text or its token ids."""
    if isinstance(given, str):
        return [given]
    if isinstance(given[0], str):
        return list(given)
    lists: Sequence[Any] = [given] if isinstance(given[0], int) else given
    return [_checked_ids(ids, tokenizer) for ids in lists]


def _checked_ids(ids: Sequence[int], tokenizer: Any) -> TokenIds:
    if tokenizer is None:
        message = "The base of this model reads texts, not token ids. Send texts."
        raise ApiError(400, message, param="input", code="invalid_type")
    if max(ids) >= len(tokenizer):
        raise ApiError(
            400,
            f"Token {max(ids)} is not among the base's {len(tokenizer)}. Send text, or ids of its own tokenizer.",
            param="input",
            code="invalid_token",
        )
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    if special.issuperset(ids):
        message = "A list of token ids holds no text, only special tokens. Send the ids of a text."
        raise ApiError(400, message, param="input", code="invalid_token")
    return TokenIds(ids)


def _rows(encoded: Sequence[Encoded], body: EmbeddingsRequest) -> list[dict[str, Any]]:
    matrix = np.stack([item.vector for item in encoded])
    if body.dimensions is not None and body.dimensions < matrix.shape[1]:
        matrix = _shortened(matrix, body.dimensions)
    vectors = [_base64(vector) for vector in matrix] if body.encoding_format == "base64" else list(matrix)
    return [
        {"object": "embedding", "index": number, "embedding": vector, "expert": item.expert}
        for number, (vector, item) in enumerate(zip(vectors, encoded, strict=True))
    ]


def _shortened(matrix: Vectors, dimensions: int) -> Vectors:
    kept = matrix[:, :dimensions]
    lengths = np.linalg.norm(kept, axis=1, keepdims=True)
    return np.ascontiguousarray(kept / np.maximum(lengths, 1e-12), np.float32)


def _base64(vector: Vectors) -> str:
    return base64.b64encode(np.ascontiguousarray(vector, "<f4").tobytes()).decode("ascii")
