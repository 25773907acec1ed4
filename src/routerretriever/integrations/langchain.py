"""LangChain: ``Embeddings`` for any vector store, and a retriever over our own index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import field_validator

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
    from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.runnables.config import run_in_executor
except ImportError as error:
    raise MissingExtraError("langchain", "langchain-core") from error


class RouterRetrieverEmbeddings(Embeddings):
    """Embeds queries with the expert each needs, and documents with the base.

    Args:
        model: a model, or where it is saved.
        expert: pins ``base``, ``merged`` or an expert for all queries instead of routing.
        device: torch device of a model that is loaded here.

    Raises:
        FormatError: there is no model at that path.
        ExpertError: there is no such expert.
    """

    def __init__(
        self, model: ServedModel | str | Path, *, expert: str | None = None, device: str | None = None
    ) -> None:
        self.model = opened_model(model, device)
        self.expert = pinned(self.model, expert)

    def embed_query(self, text: str) -> list[float]:
        """Return the vector (d,) of a query."""
        return query_vector(self.model, text, self.expert)[0]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return the base's vectors (n, d) of documents."""
        return document_vectors(self.model, texts)


class RoutedRetriever(BaseRetriever):
    """Searches an index with a query that the model routes.

    The results' metadata is the document's own and ``title``, ``collection``, ``score`` (of the search's mode) and
    ``expert`` (what encoded the query). ``k``, ``where`` and ``expert`` may also be given to ``invoke``.
    """

    index: Index
    """The index, or where it is; it loads the model it was made with."""
    k: int = 10
    """At most this many results."""
    where: str | dict[str, Any] | None = None
    """Condition on documents: SQL, or plain data as :mod:`routerretriever.index.filters` describes."""
    expert: str | None = None
    """Pins ``base``, ``merged`` or an expert instead of routing."""
    mode: Mode | None = None
    """``hybrid``, ``vector`` or ``text``; default as for :meth:`routerretriever.Index.search`."""

    @field_validator("index", mode="before")
    @classmethod
    def _open(cls, index: Index | str | Path) -> Index:
        return opened_index(index)

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun | None = None,
        k: int | None = None,
        where: str | Condition | None = None,
        expert: str | None = None,
    ) -> list[Document]:
        if k is None:
            k = self.k
        if where is None:
            where = self.where
        if expert is None:
            expert = self.expert
        found = self.index.answer([query], k, where=where, expert=expert, mode=self.mode)[0]
        return [
            Document(
                id=hit.id, page_content=hit.text, metadata=described(hit, found.expert) | {"score": hit.score}
            )
            for hit in found.hits
        ]

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun | None = None, **options: Any
    ) -> list[Document]:
        # LangChain's own fallback drops the options.
        return await run_in_executor(None, self._get_relevant_documents, query, **options)
