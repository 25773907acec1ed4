"""Documents as rows of an index's table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from routerretriever.data.document import Document, content_hash
from routerretriever.errors import VectorIndexError
from routerretriever.index.encoder import Vectors
from routerretriever.index.fields import is_missing
from routerretriever.index.schema import PLACE_COLUMNS, document_key, holds_passages, metadata_columns
from routerretriever.passages.passage import Passage, place_values


def check_vectors(vectors: Vectors, count: int, dimension: int) -> None:
    """Check that there is a vector of the index's length for every document.

    Raises:
        VectorIndexError: the shape is another, or a number is not finite.
    """
    if vectors.shape != (count, dimension):
        raise VectorIndexError(
            f"{count} texts of this index need vectors of shape ({count}, {dimension}), not {vectors.shape}."
        )
    if not np.isfinite(vectors).all():
        raise VectorIndexError(
            "A vector of these documents holds a number that is not finite, which no search could find. "
            "Check what encodes them."
        )


Cut = Callable[[Document], list[Passage]]
"""Returns the passages of a document."""


@dataclass(frozen=True, slots=True)
class Part:
    """A passage and its document: what one row holds."""

    document: Document
    passage: Passage


def parts_of(document: Document, cut: Cut | None) -> list[Part]:
    """Return the rows that a document becomes.

    Args:
        document: that was checked.
        cut: returns the passages of a document; ``None`` for an index of one row a document.
    """
    passages = [Passage.whole(document)] if cut is None else cut(document)
    return [Part(document, passage) for passage in passages]


def part_blocks(documents: Iterable[Document], cut: Cut | None, size: int) -> Iterator[list[Part]]:
    """Yield the rows of documents in blocks of at least ``size``, but for the last.

    All rows of a document are in one block, since they replace it together.
    """
    block: list[Part] = []
    for document in documents:
        block += parts_of(document, cut)
        if len(block) >= size:
            yield block
            block = []
    if block:
        yield block


def document_rows(parts: Sequence[Part], collection: str, vectors: Vectors, schema: pa.Schema) -> pa.Table:
    """Return parts of documents that were checked, and their vectors (n, d), as rows.

    Raises:
        VectorIndexError: vectors have another length than the index's.
    """
    dimension = schema.field("vector").type.list_size
    check_vectors(vectors, len(parts), dimension)
    documents = [part.document for part in parts]

    flat = pa.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
    columns: dict[str, Any] = {
        "key": [document_key(collection, document.id) for document in documents],
        "id": [document.id for document in documents],
        "collection": [collection] * len(documents),
        # Null rather than empty, as mostly none has a title; see SHOWN_COLUMNS.
        "title": [document.title or None for document in documents],
        "text": [part.passage.text for part in parts],
        "hash": [content_hash(document) for document in documents],
        "vector": pa.FixedSizeListArray.from_arrays(flat, dimension),
    }
    if holds_passages(schema):
        places = [place_values(part.passage.place) for part in parts]
        columns |= dict(zip(PLACE_COLUMNS, map(list, zip(*places, strict=True)), strict=True))
    for name in metadata_columns(schema):
        kind = schema.field(name).type
        columns[name] = [stored_value(document.metadata.get(name), kind) for document in documents]
    return pa.table(columns, schema=schema)


def stored_value(value: Any, kind: pa.DataType) -> Any:
    """Return the value of a metadata field as its column holds it."""
    if is_missing(value):
        return None
    # Arrow itself refuses whole numbers beyond 2⁵³ as floats, also those that a float holds exactly.
    return float(value) if pa.types.is_floating(kind) else value
