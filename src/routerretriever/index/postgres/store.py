"""Documents in a table of PostgreSQL with pgvector."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Self

import numpy as np
import pyarrow as pa
from psycopg import sql

from routerretriever.data.document import Document
from routerretriever.errors import BuildError, VectorIndexError
from routerretriever.index.build.chunks import Listing
from routerretriever.index.build.report import BuildReport
from routerretriever.index.build.settings import BuildSettings
from routerretriever.index.build.worker import Runner
from routerretriever.index.check import checked_ids
from routerretriever.index.encoder import Encoder, Vectors
from routerretriever.index.filters import Condition
from routerretriever.index.migration.bridge import Bridge
from routerretriever.index.migration.settings import MigrationSettings
from routerretriever.index.postgres.adopt import adopt
from routerretriever.index.postgres.build import build
from routerretriever.index.postgres.conditions import where_of
from routerretriever.index.postgres.database import Database
from routerretriever.index.postgres.maintenance import PostgresMaintenance
from routerretriever.index.postgres.table import (
    Columns,
    PostgresTable,
    TableInfo,
    find_table,
    read_record,
    write_record,
)
from routerretriever.index.postgres.view import PostgresView, record_of, shown_columns
from routerretriever.index.postgres.writer import PostgresWriter
from routerretriever.index.postgres_uri import PostgresUri, postgres_uri
from routerretriever.index.reports import Adopted, Migrated
from routerretriever.index.rows import Part
from routerretriever.index.view import Metric, document_of
from routerretriever.index.writer import BLOCK_ROWS
from routerretriever.progress import Progress


class PostgresStore(PostgresMaintenance):
    """See :class:`routerretriever.index.store.Store`.

    Attributes:
        table: what is stored.
    """

    def __init__(self, table: PostgresTable) -> None:
        super().__init__(table)
        self._writer = PostgresWriter(table)

    @classmethod
    def exists(cls, uri: str) -> bool:
        """Return whether there is an index at ``uri``; a table without a record is none."""
        address = postgres_uri(uri)
        with Database(address).reading() as connection:
            schema, found = find_table(connection, address)
            return found and read_record(connection, schema, address.table, address.shown) is not None

    @classmethod
    def open(cls, uri: str) -> Self:
        """Open an index.

        Raises:
            VectorIndexError: there is none, or it has a format that is not read.
            StorageError: the server cannot be reached.
        """
        address = postgres_uri(uri)
        database = Database(address)
        with database.reading() as connection:
            schema, found = find_table(connection, address)
            info = read_record(connection, schema, address.table, address.shown)
            if info is None and found:
                raise _not_ours(address)
            if info is None or not found:
                raise VectorIndexError(
                    f"There is no index at {address.shown}. Make one: routerretriever index MODEL "
                    f"'{address.shown}' COLLECTION"
                )
            table = PostgresTable(database, schema, address.table, info)
            table.layout(connection)
        return cls(table)

    @classmethod
    def create(cls, uri: str, *, dimension: int, fingerprint: str, similarity: str, model: str) -> Self:
        """Make a table for an empty index; arguments as of :meth:`IndexTable.create`.

        Raises:
            VectorIndexError: there is a table that is no index.
            StorageError: the server cannot be reached, or does not allow it.
        """
        address = postgres_uri(uri)
        database = Database(address)
        info = TableInfo(fingerprint=fingerprint, similarity=similarity, model=model, columns=Columns())
        with database.writing() as connection:
            schema, found = find_table(connection, address)
            if found:
                raise _not_ours(address)
            table = PostgresTable(database, schema, address.table, info)
            connection.execute(
                sql.SQL(
                    "CREATE TABLE {} (collection text NOT NULL, id text NOT NULL, title text, "
                    "text text NOT NULL, vector vector({}) NOT NULL, PRIMARY KEY (collection, id)) "
                    # Rows stay whole: a search reads thousands of them, and unpacking takes longest.
                    "WITH (toast_tuple_target = 8160)"
                ).format(table.identifier, sql.Literal(dimension))
            )
            write_record(connection, schema, address.table, info)
        return cls(table)

    @classmethod
    def adopt(
        cls, uri: str, model: Encoder, columns: Mapping[str, str], *, collection: str, place: str
    ) -> tuple[Self, Adopted]:
        """Record a table that is there as an index; see :meth:`routerretriever.Index.adopt`."""
        address = postgres_uri(uri)
        database = Database(address)
        named = Columns(**{"title": None, "collection": None} | dict(columns))  # type: ignore[arg-type]
        with database.writing() as connection:
            table, adopted = adopt(
                connection, database, address, model, named, collection=collection, place=place
            )
        return cls(table), adopted

    @property
    def uri(self) -> str:
        return self._database.uri.shown

    @property
    def info(self) -> Mapping[str, Any]:
        return asdict(self.table.info)

    @property
    def metric(self) -> Metric:
        return "cosine" if self.table.info.similarity == "cosine" else "dot"

    @property
    def has_text(self) -> bool:
        with self._database.reading() as connection:
            return self.table.layout(connection).has_words

    @property
    def holds_passages(self) -> bool:
        return False

    def __len__(self) -> int:
        with self._database.reading() as connection:
            return self._count(connection)

    # -- reading -----------------------------------------------------------------------------

    @contextmanager
    def view(self, where: str | Condition | None) -> Iterator[PostgresView]:
        with self._database.reading() as connection:
            layout = self.table.layout(connection)
            yield PostgresView(
                connection=connection,
                table=self.table,
                layout=layout,
                where=where_of(where, self.table, layout),
                statistics=self._statistics,
            )

    def lookup(self, ids: Iterable[str]) -> dict[tuple[str, str], Vectors]:
        columns = self.table.info.columns
        collection = sql.SQL("NULL") if columns.collection is None else self.table.column("collection")
        query = sql.SQL("SELECT {}, {}::text, {} FROM {} WHERE {}::text = ANY(%s)").format(
            collection,
            self.table.column("id"),
            self.table.column("vector"),
            self.table.identifier,
            self.table.column("id"),
        )
        found = {}
        with self._database.reading() as connection:
            for name, document_id, vector in connection.execute(query, [checked_ids(ids)], binary=True):
                key = self.table.info.collection if name is None else name
                found[key, document_id] = vector.to_numpy()
        return found

    def scan(self, collection: str | None) -> Iterator[tuple[list[Document], Vectors | None]]:
        with self._database.reading() as connection:
            layout = self.table.layout(connection)
            where: Condition | None = None if collection is None else {"collection": collection}
            condition = where_of(where, self.table, layout)
            query = sql.SQL("SELECT {}, {} FROM {} WHERE {} IS NOT NULL").format(
                self.table.column("vector"),
                sql.SQL(", ").join(shown_columns(self.table, layout)),
                self.table.identifier,
                self.table.column("vector"),
            )
            if condition is not None:
                query += sql.SQL(" AND {}").format(condition.sql)
            with connection.cursor("routerretriever_scan", binary=True) as cursor:
                cursor.execute(query, condition.values if condition else None)
                while rows := cursor.fetchmany(BLOCK_ROWS):
                    vectors = np.stack([vector.to_numpy() for vector, *_ in rows])
                    records = [record_of(row, self.table, layout) for _, *row in rows]
                    yield [document_of([record]) for record in records], vectors

    # -- writing -----------------------------------------------------------------------------

    def check(self, documents: Sequence[Document], collection: str) -> Mapping[str, pa.DataType]:
        with self._database.reading() as connection:
            self.table.expire()
            layout = self.table.layout(connection)
        return self._writer.check(documents, collection, layout)

    def write(
        self,
        parts: Sequence[Part],
        vectors: Vectors,
        collection: str,
        fields: Mapping[str, pa.DataType],
    ) -> None:
        documents = [part.document for part in parts]
        with self._changing() as connection:
            self._writer.write(connection, documents, vectors, collection, fields)

    def delete(self, ids: Iterable[str], collection: str) -> None:
        with self._changing() as connection:
            self._writer.delete(connection, ids, collection)

    def build(
        self,
        listing: Listing,
        settings: BuildSettings,
        *,
        model: Encoder,
        precision: str,
        runner: Runner | None,
        progress: Progress,
    ) -> BuildReport:
        if runner is not None:
            raise BuildError("A cluster writes files of Lance, not PostgreSQL. Leave out --cluster.")
        try:
            return build(
                self.table,
                self._writer,
                listing,
                settings,
                model=model,
                precision=precision,
                progress=progress,
            )
        finally:
            self._expire()

    # -- another base ------------------------------------------------------------------------

    def bridge(self, fingerprint: str) -> Bridge | None:
        return None

    def migrate(
        self, model: Encoder, place: str, settings: MigrationSettings, progress: Progress
    ) -> Migrated:
        raise VectorIndexError(
            "An index in PostgreSQL cannot be migrated where it is. Put its documents into another table: "
            f"routerretriever index export MODEL '{self.uri}' FOLDER, where MODEL is the one it was made with, "
            "then routerretriever index add NEW_MODEL 'postgresql://…?table=ANOTHER' FOLDER"
        )


def _not_ours(address: PostgresUri) -> VectorIndexError:
    return VectorIndexError(
        f"There is a table '{address.table}', but it is no index yet. To use its vectors where they are: "
        f"routerretriever index adopt MODEL '{address.shown}' --id … --text … --vector …"
    )
