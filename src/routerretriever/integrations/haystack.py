"""Haystack 3: a text embedder, a document embedder, and a retriever over our own index."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from routerretriever.encoder.served_model import ServedModel
from routerretriever.errors import MissingExtraError, ModelError
from routerretriever.index.index import Index
from routerretriever.index.search import Mode
from routerretriever.integrations.haystack_filters import to_condition
from routerretriever.integrations.shared import (
    described,
    document_vectors,
    opened_index,
    opened_model,
    query_vector,
)

try:
    from haystack import Document, component, default_to_dict
except ImportError as error:
    raise MissingExtraError("haystack", "haystack-ai") from error


class _WithModel:
    """A component that loads its model when it is first needed."""

    model: str | Path | ServedModel
    device: str | None

    def warm_up(self) -> None:
        """Load the model.

        Raises:
            FormatError: there is none at that path.
        """
        self._loaded()

    def _loaded(self) -> ServedModel:
        if not hasattr(self, "_model"):
            self._model = opened_model(self.model, self.device)
        return self._model


@component
class RouterRetrieverTextEmbedder(_WithModel):
    """Embeds a query with the expert it needs.

    Args:
        model: where the model is saved, or a model; only a path can be written into a pipeline's file.
        expert: pins ``base``, ``merged`` or an expert instead of routing.
        device: torch device, as text.
    """

    def __init__(
        self, model: str | Path | ServedModel, *, expert: str | None = None, device: str | None = None
    ) -> None:
        self.model = model
        self.expert = expert
        self.device = device

    @component.output_types(embedding=list[float], meta=dict[str, Any])
    def run(self, text: str) -> dict[str, Any]:
        """Return ``embedding`` (d,), and ``meta`` with the ``expert`` that encoded the query."""
        vector, expert = query_vector(self._loaded(), text, self.expert)
        return {"embedding": vector, "meta": {"expert": expert}}

    @component.output_types(embedding=list[float], meta=dict[str, Any])
    async def run_async(self, text: str) -> dict[str, Any]:
        """Do the same in a thread."""
        return await asyncio.to_thread(self.run, text)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings, for a pipeline's file."""
        return default_to_dict(self, model=_named(self.model), expert=self.expert, device=self.device)


@component
class RouterRetrieverDocumentEmbedder(_WithModel):
    """Embeds documents with the base, whatever experts there are.

    Args:
        model: where the model is saved, or a model; only a path can be written into a pipeline's file.
        meta_fields_to_embed: names of fields to put before the content, such as a title.
        embedding_separator: put between them.
        device: torch device, as text.
    """

    def __init__(
        self,
        model: str | Path | ServedModel,
        *,
        meta_fields_to_embed: Sequence[str] = (),
        embedding_separator: str = "\n",
        device: str | None = None,
    ) -> None:
        self.model = model
        self.meta_fields_to_embed = list(meta_fields_to_embed)
        self.embedding_separator = embedding_separator
        self.device = device

    def _text(self, document: Document) -> str:
        values = [document.meta.get(name) for name in self.meta_fields_to_embed]
        fields = [str(value) for value in values if value is not None]
        return self.embedding_separator.join([*fields, document.content or ""])

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """Return ``documents``: copies with an ``embedding``."""
        vectors = document_vectors(self._loaded(), [self._text(document) for document in documents])
        return {
            "documents": [replace(d, embedding=vector) for d, vector in zip(documents, vectors, strict=True)]
        }

    @component.output_types(documents=list[Document])
    async def run_async(self, documents: list[Document]) -> dict[str, Any]:
        """Do the same in a thread."""
        return await asyncio.to_thread(self.run, documents)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings, for a pipeline's file."""
        return default_to_dict(
            self,
            model=_named(self.model),
            meta_fields_to_embed=self.meta_fields_to_embed,
            embedding_separator=self.embedding_separator,
            device=self.device,
        )


@component
class RoutedRetriever:
    """Searches an index with a query's text, which the model routes; it needs no embedder before it.

    Args:
        index: where the index is, or an index; only a path can be written into a pipeline's file.
        model: where the model is; default the one the index was made with.
        top_k: at most this many results.
        filters: Haystack's, on ``id``, ``content``, ``title``, ``collection`` and ``meta.FIELD``. A document without a
            field counts as in Haystack: its value is ``None``.
        expert: pins ``base``, ``merged`` or an expert instead of routing.
        mode: ``hybrid``, ``vector`` or ``text``; default as for :meth:`routerretriever.Index.search`.
    """

    def __init__(
        self,
        index: str | Path | Index,
        *,
        model: str | Path | ServedModel | None = None,
        top_k: int = 10,
        filters: dict[str, Any] | None = None,
        expert: str | None = None,
        mode: Mode | None = None,
    ) -> None:
        self.index = index
        self.model = model
        self.top_k = top_k
        self.filters = filters
        self.expert = expert
        self.mode = mode

    def warm_up(self) -> None:
        """Open the index and load the model.

        Raises:
            VectorIndexError: there is no index.
        """
        _ = self._opened().model

    def _opened(self) -> Index:
        if not hasattr(self, "_index"):
            self._index = opened_index(self.index, self.model)
        return self._index

    @component.output_types(documents=list[Document], expert=str)
    def run(
        self,
        query: str,
        filters: dict[str, Any] | None = None,
        top_k: int | None = None,
        expert: str | None = None,
    ) -> dict[str, Any]:
        """Return ``documents``, best first, and the ``expert`` that encoded the query.

        Options given here replace the component's.

        Raises:
            FilterError: a filter names something that does not exist.
            ExpertError: there is no such expert.
        """
        if filters is None:
            filters = self.filters
        if top_k is None:
            top_k = self.top_k
        if expert is None:
            expert = self.expert
        where = to_condition(filters) if filters else None
        found = self._opened().answer([query], top_k, where=where, expert=expert, mode=self.mode)[0]
        documents = [
            Document(id=hit.id, content=hit.text, meta=described(hit, found.expert), score=hit.score)
            for hit in found.hits
        ]
        return {"documents": documents, "expert": found.expert}

    @component.output_types(documents=list[Document], expert=str)
    async def run_async(
        self,
        query: str,
        filters: dict[str, Any] | None = None,
        top_k: int | None = None,
        expert: str | None = None,
    ) -> dict[str, Any]:
        """Do the same in a thread."""
        return await asyncio.to_thread(self.run, query, filters, top_k, expert)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings, for a pipeline's file."""
        index = self.index.uri if isinstance(self.index, Index) else str(self.index)
        model: str | None = None
        if self.model is not None:
            model = _named(self.model)
        return default_to_dict(
            self,
            index=index,
            model=model,
            top_k=self.top_k,
            filters=self.filters,
            expert=self.expert,
            mode=self.mode,
        )


def _named(model: str | Path | ServedModel) -> str:
    if not isinstance(model, str | Path):
        raise ModelError(
            "A model in memory cannot be written into a pipeline's file. Save it and give its path."
        )
    return str(model)
