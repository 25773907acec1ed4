"""Store documents in the index, and delete them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np

from routerretriever.data.document import Document
from routerretriever.index.blocks import blocks
from routerretriever.index.filters import Condition
from routerretriever.index.index import Index
from routerretriever.index.search import hit_of
from routerretriever.kernels.vectors import Vectors
from routerretriever.server.access import Access
from routerretriever.server.problems import ApiError
from routerretriever.server.queries import required_index
from routerretriever.server.text_encoder import TextEncoder
from routerretriever.server.uninterrupted import uninterrupted

_AT_ONCE = 64
"""Texts that are handed to the batcher together."""


class DocumentService:
    """Writes one request at a time; belongs to the event loop.

    Args:
        index: that is written, if there is one.
        encoder: encodes the documents.
    """

    def __init__(self, *, index: Index | None, encoder: TextEncoder) -> None:
        self._index = index
        self._encoder = encoder
        self._writing = asyncio.Lock()

    async def upsert(
        self, documents: Sequence[Document], collection: str, access: Access, *, any_length: bool = False
    ) -> tuple[int, int]:
        """Encode and store documents.

        Args:
            documents: each replaces the one of the same collection and id.
            collection: of all of them.
            access: of whoever asks.
            any_length: whether a text may be longer than the server's limit, as those
                of files are: only their passages must not.

        Returns:
            How many were written, and how many there are for whoever asks.

        Raises:
            ApiError: there is no index, a text is too long, or the collection is not
                theirs.
        """
        index = required_index(self._index)
        check_own(collection, access)
        if not any_length:
            self._encoder.check_lengths([document.content for document in documents])
        texts = await asyncio.to_thread(index.texts_to_encode, documents)
        vectors: dict[str, Vectors] = {}
        for block in blocks(texts, _AT_ONCE):  # so that queries are answered in between
            for text, item in zip(block, await self._encoder.documents(block, access), strict=True):
                vectors[text] = item.vector

        def known_vectors(texts: Sequence[str]) -> Vectors:  # the index writes block by block
            return np.stack([vectors[text] for text in texts])

        async def store() -> tuple[int, int]:
            async with self._writing:
                written = await asyncio.to_thread(
                    index.upsert, documents, collection=collection, encode=known_vectors
                )
                return written, await self._count_in(index, access)

        return await uninterrupted(store())

    async def delete(self, ids: Sequence[str], collection: str, access: Access) -> tuple[int, int]:
        """Delete documents.

        Returns:
            How many were deleted, and how many there are for whoever asks.

        Raises:
            ApiError: there is no index, or the collection is not theirs.
        """
        index = required_index(self._index)
        check_own(collection, access)

        async def remove() -> tuple[int, int]:
            async with self._writing:
                deleted = await asyncio.to_thread(index.delete, ids, collection=collection)
                return deleted, await self._count_in(index, access)

        return await uninterrupted(remove())

    async def count(self, access: Access) -> int | None:
        """Return how many documents there are for whoever asks; ``None`` without an index."""
        return None if self._index is None else await self._count_in(self._index, access)

    def held(self, access: Access, offset: int, limit: int) -> dict[str, Any]:
        """Return how much of what there is for whoever asks, and the newest documents; blocks.

        Raises:
            ApiError: there is no index.
        """
        index = required_index(self._index)
        records, total = index.newest(limit, offset=offset, where=access.where())
        info = index.describe()
        collections = []
        for name in access.seen_collections(sorted(info.collections)):
            count = info.collections[name]
            if access.filter is not None:
                count = index.count(access.where({"collection": name}))
            if count:
                collections.append({"name": name, "documents": count})
        newest = []
        for record in records:
            hit = hit_of(record, 0.0).to_dict()
            newest.append({name: hit[name] for name in ("id", "collection", "title", "metadata")})
        passages = info.passages if access.sees_all_documents else None
        return {"documents": total, "passages": passages, "collections": collections, "newest": newest}

    def holds(self, condition: Condition, access: Access) -> bool:
        """Return whether a document that satisfies a condition exists for whoever asks; blocks."""
        return self._index is not None and self._index.count(access.where(condition)) > 0

    async def _count_in(self, index: Index, access: Access) -> int:
        if access.sees_all_documents:
            return await asyncio.to_thread(len, index)
        return await asyncio.to_thread(index.count, access.where())


def check_own(collection: str, access: Access) -> None:
    """Refuse to change a collection that is not the asker's, whether it exists or not."""
    if not access.sees_collection(collection):
        message = f"This key may not change the collection '{collection}'."
        if not collection:
            message = "This key may change its own collections only. Name one of them."
        raise ApiError(403, message, param="collection", code="not_yours")
