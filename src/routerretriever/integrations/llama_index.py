"""LlamaIndex: an embedding for any vector store, and a retriever over our own index."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from routerretriever.encoder.served_model import ServedModel
from routerretriever.errors import MissingExtraError
from routerretriever.index.filters import Condition
from routerretriever.index.index import Index
from routerretriever.index.search import Mode
from routerretriever.integrations.shared import (
    described,
    document_vectors,
    opened_index,
    opened_model,
    pinned,
    query_vector,
)

try:
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.bridge.pydantic import PrivateAttr
    from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
except ImportError as error:
    raise MissingExtraError("llama-index", "llama-index-core") from error

_NOT_FOR_MODELS = ["collection", "expert"]


class RouterRetrieverEmbedding(BaseEmbedding):
    """Embeds queries with the expert each needs, and texts of nodes with the base.

    Args:
        model_name: where the model is saved, or a model; only with a path can the embedding be written as data.
        expert: pins ``base``, ``merged`` or an expert for all queries instead of routing.
        device: torch device of a model that is loaded here.
        options: LlamaIndex's own, such as ``embed_batch_size``.

    Raises:
        FormatError: there is no model at that path.
        ExpertError: there is no such expert.
    """

    expert: str | None = None
    device: str | None = None
    _model: ServedModel = PrivateAttr()

    def __init__(
        self,
        model_name: ServedModel | str | Path,
        *,
        expert: str | None = None,
        device: str | None = None,
        **options: Any,
    ) -> None:
        model = opened_model(model_name, device)
        name = model.base.id if not isinstance(model_name, str | Path) else str(model_name)
        settings: dict[str, Any] = {"expert": pinned(model, expert), "device": device, **options}
        super().__init__(model_name=name, **settings)
        self._model = model

    @classmethod
    def class_name(cls) -> str:
        """Return LlamaIndex's name for the kind of component."""
        return "RouterRetrieverEmbedding"

    def _get_query_embedding(self, query: str) -> list[float]:
        return query_vector(self._model, query, self.expert)[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return document_vectors(self._model, [text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return document_vectors(self._model, texts)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)


class RoutedRetriever(BaseRetriever):
    """Searches an index with a query that the model routes.

    The nodes' metadata is the document's own and ``title``, ``collection`` and ``expert`` (what encoded the query);
    the last two are not shown to language models.

    Args:
        index: the index, or where it is; it loads the model it was made with.
        k: at most this many results.
        where: condition on documents: SQL, or plain data as :mod:`routerretriever.index.filters` describes.
        expert: pins ``base``, ``merged`` or an expert instead of routing.
        mode: ``hybrid``, ``vector`` or ``text``; default as for :meth:`routerretriever.Index.search`.
        options: LlamaIndex's own, such as ``callback_manager``.

    Raises:
        VectorIndexError: there is no index.
    """

    def __init__(
        self,
        index: Index | str | Path,
        *,
        k: int = 10,
        where: str | Condition | None = None,
        expert: str | None = None,
        mode: Mode | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.index = opened_index(index)
        self.k = k
        self.where = where
        self.expert = expert
        self.mode = mode

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        found = self.index.answer(
            [query_bundle.query_str],
            self.k,
            where=self.where,
            expert=self.expert,
            mode=self.mode,
        )[0]
        return [
            NodeWithScore(
                node=TextNode(
                    id_=hit.id,
                    text=hit.text,
                    metadata=described(hit, found.expert),
                    excluded_llm_metadata_keys=_NOT_FOR_MODELS,
                    excluded_embed_metadata_keys=_NOT_FOR_MODELS,
                ),
                score=hit.score,
            )
            for hit in found.hits
        ]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)
