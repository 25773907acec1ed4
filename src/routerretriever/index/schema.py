"""The columns of an index's table, and the keys of its rows."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from routerretriever.errors import CollectionError, FingerprintError

RECORD = b"routerretriever"
"""Metadata of the table in which the index records its base, similarity and model."""

SHOWN_COLUMNS = ("key", "title", "text")
"""Columns a result is made of.

``id`` and ``collection`` exist for conditions; the key holds both as well. Of a column with
one value in all rows Lance decodes a whole page for every row it is asked for.
"""

PLACE_COLUMNS = ("_passage", "_start", "_stop", "_heading", "_page")
"""Where a row's text is in its document: fields of :class:`routerretriever.passages.passage.Place`.

All are null for a document that is one row. Passages of a document have the same key, so that they
are replaced and deleted together. Indexes of format 2 have one row a document and no such columns.
"""

OWN_COLUMNS = ("key", "id", "collection", "title", "text", "hash", "vector", *PLACE_COLUMNS)
_TEXT_COLUMNS = OWN_COLUMNS[:5]
_PLACE_TYPES = (pa.int32(), pa.int32(), pa.int32(), pa.string(), pa.int32())

FIRST_ROWS = "(_passage IS NULL OR _passage = 0)"
"""SQL condition for one row of every document, where the index has passages."""
_SEPARATOR = "\x1f"


def recorded_info(schema: pa.Schema) -> dict[str, Any]:
    """Return what an index records about itself.

    Raises:
        KeyError, ValueError: it is none of ours.
    """
    info: dict[str, Any] = json.loads((schema.metadata or {})[RECORD])
    return info


def check_same_base(schema: pa.Schema, fingerprint: str, uri: str) -> None:
    """Check that a newer version of an index still has the base that it had when it was opened.

    Raises:
        FingerprintError: it was migrated to another one.
    """
    info = recorded_info(schema)
    if info["fingerprint"] != fingerprint:
        raise FingerprintError(
            f"The index {uri} was migrated to another base encoder (fingerprint "
            f"{info['fingerprint'][:12]}, before {fingerprint[:12]}). Open it again, with "
            f"{info['model'] or 'a model of that base'}."
        )


def table_schema(dimension: int, info: bytes) -> pa.Schema:
    """Return the columns of an index without metadata fields.

    Args:
        dimension: length of the vectors.
        info: what the index records about itself.
    """
    texts = [(name, pa.string()) for name in _TEXT_COLUMNS]
    vector = pa.list_(pa.float32(), dimension)
    places = zip(PLACE_COLUMNS, _PLACE_TYPES, strict=True)
    columns = [*texts, ("hash", pa.binary(16)), ("vector", vector), *places]
    return pa.schema(columns, metadata={RECORD: info})


def holds_passages(schema: pa.Schema) -> bool:
    """Return whether a document may be several rows."""
    return PLACE_COLUMNS[0] in schema.names


def metadata_columns(schema: pa.Schema) -> list[str]:
    """Return the names of the metadata fields that documents brought along."""
    return [name for name in schema.names if name not in OWN_COLUMNS]


def metadata_types(schema: pa.Schema) -> dict[str, pa.DataType]:
    """Return the types of the metadata fields by name."""
    return {name: schema.field(name).type for name in metadata_columns(schema)}


def document_key(collection: str, document_id: str) -> str:
    """Return what makes a row unique: several collections may use the same ids.

    Raises:
        CollectionError: the collection's name holds the character that divides the two.
    """
    if _SEPARATOR in collection:
        raise CollectionError(
            f"The collection's name {collection!r} holds a control character. Give it another name."
        )
    return f"{collection}{_SEPARATOR}{document_id}"


def collection_and_id(key: str) -> tuple[str, str]:
    """Return what :func:`document_key` put together."""
    collection, _, document_id = key.partition(_SEPARATOR)
    return collection, document_id


def quoted(text: str) -> str:
    """Return a text as a literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


def key_condition(keys: list[str]) -> str:
    """Return the SQL condition that selects rows by key."""
    return f"key IN ({', '.join(map(quoted, keys))})"
