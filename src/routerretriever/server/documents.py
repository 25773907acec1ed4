"""Store documents in the index, and delete them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np

from routerretriever.data.document import Document
from routerretriever.index.index import Index
from routerretriever.kernels.vectors import Vectors
from routerretriever.server.access import Access
from routerretriever.server.problems import ApiError
from routerretriever.server.queries import required_index
from routerretriever.server.text_encoder import TextEncoder
from routerretriever.server.uninterrupted import uninterrupted


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

    async def upsert(self, documents: Sequence[Document], collection: str, access: Access) -> tuple[int, int]:
        """Encode and store documents.

        Returns:
            How many were written, and how many there are for whoever asks.

        Raises:
            ApiError: there is no index, a text is too long, or the collection is not theirs.
        """
        index = required_index(self._index)
        _check_own(collection, access)
        self._encoder.check_lengths([document.content for document in documents])
        texts = await asyncio.to_thread(index.texts_to_encode, documents)
        encoded = await self._encoder.documents(texts, access)
        vectors = {text: item.vector for text, item in zip(texts, encoded, strict=True)}

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
        _check_own(collection, access)

        async def remove() -> tuple[int, int]:
            async with self._writing:
                before = await self._count_in(index, access)
                await asyncio.to_thread(index.delete, ids, collection=collection)
                after = await self._count_in(index, access)
                return before - after, after

        return await uninterrupted(remove())

    async def count(self, access: Access) -> int | None:
        """Return how many documents there are for whoever asks; ``None`` without an index."""
        return None if self._index is None else await self._count_in(self._index, access)

    async def _count_in(self, index: Index, access: Access) -> int:
        if access.sees_all_documents:
            return await asyncio.to_thread(len, index)
        return await asyncio.to_thread(index.count, access.where())


def _check_own(collection: str, access: Access) -> None:
    """Refuse to change a collection that is not the asker's, whether it exists or not."""
    if not access.sees_collection(collection):
        message = f"This key may not change the collection '{collection}'."
        raise ApiError(403, message, param="collection", code="not_yours")
