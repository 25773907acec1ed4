"""Documents as rows of an index's table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from routerretriever.data.document import Document, content_hash
from routerretriever.errors import VectorIndexError
from routerretriever.index.encoder import Vectors
from routerretriever.index.fields import is_missing
from routerretriever.index.schema import document_key, metadata_columns


def check_vectors(vectors: Vectors, count: int, dimension: int) -> None:
    """Check that there is a vector of the index's length for every document.

    Raises:
        VectorIndexError: the shape is another, or a number is not finite.
    """
    if vectors.shape != (count, dimension):
        raise VectorIndexError(
            f"{count} documents of this index need vectors of shape ({count}, {dimension}), not {vectors.shape}."
        )
    if not np.isfinite(vectors).all():
        raise VectorIndexError(
            "A vector of these documents holds a number that is not finite, which no search could find. "
            "Check what encodes them."
        )


def document_rows(
    documents: Sequence[Document], collection: str, vectors: Vectors, schema: pa.Schema
) -> pa.Table:
    """Return documents that were checked, and their vectors (n, d), as rows.

    Raises:
        VectorIndexError: vectors have another length than the index's.
    """
    dimension = schema.field("vector").type.list_size
    check_vectors(vectors, len(documents), dimension)

    flat = pa.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
    columns: dict[str, Any] = {
        "key": [document_key(collection, document.id) for document in documents],
        "id": [document.id for document in documents],
        "collection": [collection] * len(documents),
        # Null rather than empty, as mostly none has a title; see SHOWN_COLUMNS.
        "title": [document.title or None for document in documents],
        "text": [document.text for document in documents],
        "hash": [content_hash(document) for document in documents],
        "vector": pa.FixedSizeListArray.from_arrays(flat, dimension),
    }
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
