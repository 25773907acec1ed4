"""Writing and deleting documents whose vectors are at hand, a block at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from routerretriever.data.document import Document
from routerretriever.data.names import check_collection_name
from routerretriever.errors import StorageError
from routerretriever.index.blocks import blocks
from routerretriever.index.check import DocumentCheck, checked_fields, checked_ids
from routerretriever.index.columns import add_missing_columns, drop_added_columns
from routerretriever.index.commit import (
    commit_rows,
    committing,
    rows_with_keys,
    write_fragments,
)
from routerretriever.index.conflicts import retrying_conflicts
from routerretriever.index.encoder import Vectors
from routerretriever.index.rows import Part, check_vectors, document_rows
from routerretriever.index.schema import document_key, key_condition, metadata_types
from routerretriever.index.table import IndexTable

BLOCK_ROWS = 4096
"""Rows that are encoded and committed at once."""


class DocumentWriter:
    """Writes documents to one index."""

    def __init__(self, table: IndexTable) -> None:
        self._table = table

    def check(self, documents: Sequence[Document], collection: str) -> Mapping[str, pa.DataType]:
        """Check all documents of a call before the first is written.

        Returns:
            The columns that they need beside those of the index.

        Raises:
            CollectionError: a document or the collection's name cannot be stored, or
                two documents have the same id.
        """
        check_collection_name(collection)
        present = metadata_types(self._table.schema)
        return checked_fields(documents, present, lambda new: DocumentCheck({**present, **new}))

    def write(
        self,
        parts: Sequence[Part],
        vectors: Vectors,
        collection: str,
        fields: Mapping[str, pa.DataType],
    ) -> None:
        """Write documents that were checked, in the place of those with the same ids.

        Args:
            parts: all rows of some documents.
            vectors: theirs (n, d).
            collection: that they belong to.
            fields: what :meth:`check` returned.

        Raises:
            CollectionError: a field has come to have another type meanwhile.
            VectorIndexError: the vectors have another length than the index's.
            FingerprintError: the index was migrated to another base since it was opened.
            StorageError: the index cannot be written; it is as it was.
        """
        dimension = self._table.newest().schema.field("vector").type.list_size
        check_vectors(vectors, len(parts), dimension)

        def write() -> None:
            with committing(self._table.uri):
                added = add_missing_columns(self._table.dataset_uri, fields)
                try:
                    self._commit(parts, vectors, collection)
                except BaseException:
                    drop_added_columns(self._table.dataset_uri, added)
                    raise

        self._written(write)

    def _commit(self, parts: Sequence[Part], vectors: Vectors, collection: str) -> None:
        dataset = self._table.newest()
        check = DocumentCheck(metadata_types(dataset.schema))
        for part in parts:
            check.check(part.document, f"Document '{part.document.id}'")

        rows = document_rows(parts, collection, vectors, dataset.schema)
        fragments = write_fragments(dataset, rows)
        keys = rows["key"].unique().to_pylist()

        def commit() -> None:
            newest = self._table.newest()
            commit_rows(newest, fragments, rows_with_keys(newest, keys))

        retrying_conflicts(commit)

    def delete(self, ids: Iterable[str], collection: str) -> None:
        """Delete documents by id; unknown ids are ignored.

        Raises:
            CollectionError: an id or the collection's name is no text.
            StorageError: the index cannot be written; blocks before that are deleted.
        """
        keys = [document_key(collection, document_id) for document_id in checked_ids(ids)]
        for block in blocks(keys, BLOCK_ROWS):
            self._written(partial(self._delete, block))

    def _delete(self, keys: list[str]) -> None:
        with committing(self._table.uri):
            self._table.newest_of_any_base().delete(key_condition(keys))

    def _written(self, work: Callable[[], Any]) -> None:
        try:
            retrying_conflicts(work)
        except (OSError, RuntimeError) as error:
            raise StorageError(f"The index {self._table.uri} could not be written: {error}") from error
        finally:
            self._table.refresh()
