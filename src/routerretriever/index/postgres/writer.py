"""Writing documents to a table in PostgreSQL, and deleting them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
from psycopg import errors, sql

from routerretriever.data.document import Document
from routerretriever.data.names import check_collection_name
from routerretriever.errors import CollectionError, VectorIndexError
from routerretriever.index.check import DocumentCheck, checked_fields, checked_ids
from routerretriever.index.encoder import Vectors
from routerretriever.index.postgres.database import Connection
from routerretriever.index.postgres.table import WORDS, Layout, PostgresTable
from routerretriever.index.postgres_uri import check_identifier
from routerretriever.index.rows import check_vectors, stored_value

_SQL_TYPES = {
    pa.string(): "text",
    pa.bool_(): "boolean",
    pa.int64(): "bigint",
    pa.float64(): "double precision",
}


class PostgresWriter:
    """Writes documents to one table."""

    def __init__(self, table: PostgresTable) -> None:
        self._table = table

    def check(
        self, documents: Sequence[Document], collection: str, layout: Layout
    ) -> Mapping[str, pa.DataType]:
        """Check all documents of a call before the first is written.

        Returns:
            The columns that they need beside those of the table.

        Raises:
            CollectionError: a document or the collection's name cannot be stored.
        """
        self.check_collection(collection)
        fields = checked_fields(documents, layout.fields, partial(self.document_check, layout))
        return {} if self._table.info.adopted else fields

    def check_collection(self, collection: str) -> None:
        """Refuse the name of another collection where the table has but one.

        Raises:
            CollectionError: the name cannot be stored.
        """
        check_collection_name(collection)
        info = self._table.info
        if info.columns.collection is None and collection not in ("", info.collection):
            raise CollectionError(
                f"The table '{self._table.name}' has no column for collections: all its documents are "
                f"of '{info.collection}', not '{collection}'."
            )

    def document_check(self, layout: Layout, fields: Mapping[str, pa.DataType]) -> PostgresCheck:
        """Return what tells which documents the table can hold."""
        if self._table.info.adopted:
            hint = "Add a column to the table first, or leave the field out."
            written = {name: kind for name, kind in layout.fields.items() if name not in layout.computed}
            return PostgresCheck(written, hint)
        return PostgresCheck({**layout.fields, **fields})

    def write(
        self,
        connection: Connection,
        documents: Sequence[Document],
        vectors: Vectors,
        collection: str,
        fields: Mapping[str, pa.DataType],
    ) -> None:
        """Write documents that were checked, in the place of those with the same ids.

        Args:
            connection: within a transaction.
            documents: one block.
            vectors: theirs (n, d).
            collection: that they belong to.
            fields: columns that are to be added.

        Raises:
            CollectionError: a field has come to have another type meanwhile.
            VectorIndexError: the vectors have another length than the table's, or ids are not
                unique there.
        """
        add_columns(connection, self._table, fields)
        layout = self._table.layout(connection)
        check_vectors(vectors, len(documents), layout.dimension)
        check = self.document_check(layout, {})
        for document in documents:
            check.check(document, f"Document '{document.id}'")

        columns = self._columns(documents, layout)
        rows = [
            self._row(document, vector, collection, columns, layout)
            # All writers lock rows in the same order, so that none waits for another in a circle.
            for document, vector in sorted(zip(documents, vectors, strict=True), key=lambda pair: pair[0].id)
        ]
        try:
            with connection.cursor() as cursor:
                cursor.executemany(self._upsert(columns), rows)
        except errors.InvalidColumnReference as error:
            key = ", ".join(self._table.info.columns.key())
            raise VectorIndexError(
                f"Documents of '{self._table.name}' cannot be replaced, because nothing keeps their ids "
                f"unique. Run: CREATE UNIQUE INDEX ON {self._table.name} ({key})"
            ) from error

    def delete(self, connection: Connection, ids: Iterable[str], collection: str) -> None:
        """Delete documents by id; unknown ids are ignored.

        Raises:
            CollectionError: an id or the collection's name is no text.
        """
        self.check_collection(collection)
        columns = self._table.info.columns
        wanted = sql.SQL("{}::text = ANY(%s)").format(self._table.column("id"))
        values: list[Any] = [checked_ids(ids)]
        if columns.collection is not None:
            wanted += sql.SQL(" AND {} = %s").format(self._table.column("collection"))
            values.append(collection)
        connection.execute(sql.SQL("DELETE FROM {} WHERE {}").format(self._table.identifier, wanted), values)

    # -- rows --------------------------------------------------------------------------------

    def _columns(self, documents: Sequence[Document], layout: Layout) -> list[str]:
        """Return the columns that are written: of an adopted table only those that documents name."""
        names = list(self._table.info.columns.used().values())
        if not self._table.info.adopted:
            return names + list(layout.fields)
        brought = {name for document in documents for name in document.metadata}
        return names + [name for name in layout.fields if name in brought]

    def _upsert(self, columns: Sequence[str]) -> sql.Composed:
        key = self._table.info.columns.key()
        renewed = [name for name in columns if name not in key]
        return sql.SQL("INSERT INTO {} ({}) VALUES ({}) ON CONFLICT ({}) DO UPDATE SET {}").format(
            self._table.identifier,
            sql.SQL(", ").join(map(sql.Identifier, columns)),
            sql.SQL(", ").join([sql.Placeholder()] * len(columns)),
            sql.SQL(", ").join(map(sql.Identifier, key)),
            sql.SQL(", ").join(
                sql.SQL("{0} = EXCLUDED.{0}").format(sql.Identifier(name)) for name in renewed
            ),
        )

    def _row(
        self, document: Document, vector: Any, collection: str, columns: Sequence[str], layout: Layout
    ) -> list[Any]:
        own = self._table.info.columns.used()
        values = {
            own["id"]: document.id,
            own["text"]: document.text,
            own["vector"]: vector,
            own.get("title"): document.title or None,
            own.get("collection"): collection,
        }
        for name, kind in layout.fields.items():
            values[name] = stored_value(document.metadata.get(name), kind)
        return [values[name] for name in columns]


class PostgresCheck(DocumentCheck):
    """Tells which documents a table in PostgreSQL can hold."""

    def check(self, document: Document, where: str) -> None:
        DocumentCheck.check(self, document, where)
        texts = (document.id, document.title, document.text, *document.metadata.values())
        if any(isinstance(text, str) and "\0" in text for text in texts):
            raise CollectionError(f"{where}: it holds the character NUL, which PostgreSQL cannot store.")


def add_columns(connection: Connection, table: PostgresTable, fields: Mapping[str, pa.DataType]) -> None:
    """Add those columns for metadata fields that are missing; another process may have added the same.

    Raises:
        CollectionError: a field has a name that no column can have.
    """
    if not fields:
        return
    table.lock_structure(connection)
    present = table.layout(connection).types
    for name, kind in fields.items():
        try:
            check_identifier(name)
        except VectorIndexError as error:
            raise CollectionError(f"The field {name!r:.80}: {error}") from error
        if name == WORDS:
            raise CollectionError(f"The index needs the name of the field '{name}' itself. Rename the field.")
        if name in present:
            continue
        connection.execute(
            sql.SQL("ALTER TABLE {} ADD COLUMN {} {}").format(
                table.identifier, sql.Identifier(name), sql.SQL(_SQL_TYPES[kind])
            )
        )
    table.expire()
