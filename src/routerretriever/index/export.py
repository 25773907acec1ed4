"""Documents of an index as a folder to train on, with the vectors that are there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from routerretriever.data.document import Document
from routerretriever.errors import CollectionError
from routerretriever.index.encoder import Vectors
from routerretriever.index.store import Store
from routerretriever.storage.atomic import replacing

CORPUS = "corpus.jsonl"


class KeepsVectors(Protocol):
    """Keeps document vectors where training finds them; :class:`routerretriever.RouterRetriever` does."""

    def keep_vectors(self, texts: Sequence[str], vectors: Vectors) -> None:
        """Keep vectors (n, d) of texts."""


def export(store: Store, folder: Path, collection: str | None, model: KeepsVectors | None) -> int:
    """Write documents as ``corpus.jsonl``; see :meth:`routerretriever.Index.export`."""
    if (folder / CORPUS).exists():
        raise CollectionError(f"{folder / CORPUS} exists. Choose another folder, or remove the file.")
    ids: set[str] = set()
    with replacing(folder) as staging, (staging / CORPUS).open("w", encoding="utf-8") as file:
        for documents, vectors in store.scan(collection):
            for document in documents:
                if document.id in ids:
                    raise CollectionError(
                        f"Several collections of the index have a document '{document.id}'. Export one of "
                        "them: --collection NAME"
                    )
                ids.add(document.id)
                file.write(json.dumps(_record(document), ensure_ascii=False) + "\n")
            if model is not None and vectors is not None:
                model.keep_vectors([document.content for document in documents], vectors)
        if not ids:
            raise CollectionError(f"The index {store.uri} has no documents{_of(collection)}.")
    return len(ids)


def _record(document: Document) -> dict[str, object]:
    title = {"title": document.title} if document.title else {}
    metadata = {"metadata": dict(document.metadata)} if document.metadata else {}
    return {"_id": document.id, **title, "text": document.text, **metadata}


def _of(collection: str | None) -> str:
    return "" if collection is None else f" of '{collection}'"
