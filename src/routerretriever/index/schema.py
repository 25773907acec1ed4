"""The columns of an index's table, and documents as rows of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from routerretriever.data.document import Document, content_hash
from routerretriever.errors import VectorIndexError
from routerretriever.kernels.exact_search import Vectors

SHOWN_COLUMNS = ("key", "title", "text")
"""What a result is made of. ``id`` and ``collection`` are there for conditions, but stand in the key as well: of a
column with one value in all rows Lance decodes a whole page for every row it is asked for."""
OWN_COLUMNS = ("key", "id", "collection", "title", "text", "hash", "vector")
_SEPARATOR = "\x1f"


def table_schema(dimension: int, info: bytes) -> pa.Schema:
    """Columns of an index without metadata fields; ``info`` goes along."""
    fields = [(name, pa.string()) for name in OWN_COLUMNS[:5]]
    vector = pa.list_(pa.float32(), dimension)
    return pa.schema([*fields, ("hash", pa.binary(16)), ("vector", vector)], metadata={"routerretriever": info})


def metadata_columns(schema: pa.Schema) -> list[str]:
    """The fields that documents brought along."""
    return [name for name in schema.names if name not in OWN_COLUMNS]


def document_key(collection: str, document_id: str) -> str:
    """What makes a row unique: several collections may use the same ids."""
    return f"{collection}{_SEPARATOR}{document_id}"


def collection_and_id(key: str) -> tuple[str, str]:
    """What :func:`document_key` put together."""
    collection, _, document_id = key.partition(_SEPARATOR)
    return collection, document_id


def quoted(text: str) -> str:
    """A text as SQL's literal."""
    return "'" + text.replace("'", "''") + "'"


def document_table(documents: Sequence[Document], collection: str, vectors: Vectors, schema: pa.Schema) -> pa.Table:
    """Documents and their vectors (n, d) as rows.

    Raises:
        VectorIndexError: vectors have another length, or a metadata field another type than in the index.
    """
    dimension = schema.field("vector").type.list_size
    if vectors.shape != (len(documents), dimension):
        raise VectorIndexError(
            f"{len(documents)} documents of this index need vectors of shape ({len(documents)}, {dimension}), not "
            f"{vectors.shape}."
        )
    flat = pa.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
    rows = {
        "key": [document_key(collection, document.id) for document in documents],
        "id": [document.id for document in documents],
        "collection": [collection] * len(documents),
        "title": [document.title or None for document in documents],  # as for SHOWN_COLUMNS: mostly, none has one
        "text": [document.text for document in documents],
        "hash": [content_hash(document) for document in documents],
        "vector": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
    }
    rows |= {name: [doc.metadata.get(name) for doc in documents] for name in metadata_columns(schema)}
    try:
        return pa.table(rows, schema=schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise VectorIndexError(f"A metadata field has another type than in the index ({error}).") from error
