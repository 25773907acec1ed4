"""Documents in a table of PostgreSQL with pgvector."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from typing import Any, Self

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
from routerretriever.index.kinds import IndexKind
from routerretriever.index.maintenance import Builder
from routerretriever.index.postgres import vector_index
from routerretriever.index.postgres.build import build
from routerretriever.index.postgres.conditions import where_of
from routerretriever.index.postgres.database import Connection, Database
from routerretriever.index.postgres.table import (
    Columns,
    PostgresTable,
    TableInfo,
    find_table,
    read_record,
    write_record,
)
from routerretriever.index.postgres.view import PostgresView
from routerretriever.index.postgres.words import WordStatistics, add_words, drop_words
from routerretriever.index.postgres.writer import PostgresWriter
from routerretriever.index.postgres_uri import PostgresUri, postgres_uri
from routerretriever.index.reports import Cleaned, Compacted, Flushed, IndexInfo, Refreshed
from routerretriever.index.rows import Part
from routerretriever.index.texts import TextIndex
from routerretriever.index.view import Metric
from routerretriever.progress import Progress
from routerretriever.words.text_index import AUTO, SAMPLE, TextSettings, Tokenizer


class PostgresStore:
    """See :class:`routerretriever.index.store.Store`.

    Attributes:
        table: what is stored.
    """

    def __init__(self, table: PostgresTable) -> None:
        self.table = table
        self._database = table.database
        self._writer = PostgresWriter(table)
        self._statistics = WordStatistics(table)

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

    @property
    def kind(self) -> IndexKind:
        with self._database.reading() as connection:
            return vector_index.present(connection, self.table)

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
            raise BuildError("A cluster writes files of LanceDB, not PostgreSQL. Leave out --cluster.")
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

    @contextmanager
    def _changing(self) -> Iterator[Connection]:
        try:
            with self._database.writing() as connection:
                yield connection
        finally:
            self._expire()

    def _expire(self) -> None:
        self.table.expire()
        self._statistics.expire()

    # -- maintenance -------------------------------------------------------------------------

    def after_write(self, progress: Progress) -> None:
        with self._database.reading() as connection:
            rows = self._count(connection)
            layout = self.table.layout(connection)
            is_flat = not vector_index.existing(connection, self.table)
        note = self.table.info.kind
        by_size = note is None or bool(note["auto"])
        chosen = vector_index.choose(rows, layout.dimension)[0]
        if is_flat and by_size and chosen != "flat":
            with progress.task("index vectors", 1) as task:
                self.build_index("auto", None)
                task.advance()
        if not layout.has_words and self.table.info.keeps_words and not self.table.info.adopted and rows:
            with progress.task("index words", 1) as task:
                self.build_text_index(TextSettings())
                task.advance()

    def build_index(self, kind: str, builder: Builder | None) -> IndexKind:
        if builder is not None:
            raise BuildError("A cluster builds indexes of LanceDB, not of PostgreSQL. Leave out --cluster.")
        with self._changing() as connection:
            layout = self.table.layout(connection)
            return vector_index.build(connection, self.table, layout, kind)

    def build_text_index(self, settings: TextSettings) -> TextIndex:
        if settings.tokenizer not in (AUTO, Tokenizer.SIMPLE):
            raise VectorIndexError(
                f"PostgreSQL splits words itself: there is no tokenizer '{settings.tokenizer}'. Use simple."
            )
        start = time.perf_counter()
        with self._changing() as connection:
            simple = TextSettings(tokenizer=Tokenizer.SIMPLE, language=settings.language)
            chosen = simple.chosen_for(self._sample(connection))
            add_words(connection, self.table, chosen.language)
            self.table.record(connection, language=chosen.language, keeps_words=True)
        self._analyze()
        seconds = round(time.perf_counter() - start, 2)
        return TextIndex(tokenizer=chosen.tokenizer, language=chosen.language, seconds=seconds)

    def drop_text_index(self) -> None:
        with self._changing() as connection:
            drop_words(connection, self.table)
            self.table.record(connection, language=None, keeps_words=False)

    def compact(self) -> Compacted:
        start, before = time.perf_counter(), self._bytes()
        self._run("VACUUM {}")
        return Compacted(
            fragments_before=None,
            fragments_after=None,
            bytes_before=before,
            bytes_at_most=None,
            bytes_after=self._bytes(),
            seconds=round(time.perf_counter() - start, 2),
        )

    def refresh(self) -> Refreshed:
        start, before = time.perf_counter(), self._bytes()
        self._run("VACUUM (ANALYZE) {}")
        self._expire()
        return Refreshed(
            vectors=0,
            texts=0,
            rebuilt=False,
            bytes_before=before,
            bytes_at_most=None,
            bytes_after=self._bytes(),
            seconds=round(time.perf_counter() - start, 2),
        )

    def clean(self, older_than: timedelta) -> Cleaned:
        raise VectorIndexError(
            "An index in PostgreSQL keeps no old versions, so there are none to remove. To free the space "
            "of deleted rows: routerretriever index compact"
        )

    def flush(self) -> Flushed:
        return Flushed(0, 0)  # PostgreSQL acknowledges only what is safe

    def describe(self) -> IndexInfo:
        info = self.table.info
        with self._database.reading() as connection:
            layout = self.table.layout(connection)
            kind = vector_index.present(connection, self.table)
            if info.columns.collection is None:
                counts = {info.collection: self._count(connection)}
            else:
                column = self.table.column("collection")
                query = sql.SQL("SELECT {0}, count(*) FROM {1} GROUP BY {0}")
                rows = connection.execute(query.format(column, self.table.identifier)).fetchall()
                counts = {name or "": count for name, count in rows}
        text = None
        if layout.has_words:
            text = TextSettings(tokenizer=Tokenizer.SIMPLE, language=info.language or "none")
        return IndexInfo(
            documents=sum(counts.values()),
            passages=sum(counts.values()),
            collections=dict(sorted(counts.items())),
            kind=kind,
            text=text,
            unindexed=0,
            fragments=None,
            versions=None,
            bytes=self._bytes(),
        )

    # -- SQL ---------------------------------------------------------------------------------

    def _count(self, connection: Connection) -> int:
        query = sql.SQL("SELECT count(*) FROM {}").format(self.table.identifier)
        row = connection.execute(query).fetchone()
        assert row is not None
        return int(row[0])

    def _sample(self, connection: Connection) -> list[str]:
        title = self.table.info.columns.title
        columns = [self.table.column("text")] if title is None else map(self.table.column, ("title", "text"))
        query = sql.SQL("SELECT concat_ws(' ', {}) FROM {} LIMIT %s").format(
            sql.SQL(", ").join(columns), self.table.identifier
        )
        return [text for (text,) in connection.execute(query, [SAMPLE])]

    def _bytes(self) -> int:
        with self._database.reading() as connection:
            name = self.table.identifier.as_string(connection)
            row = connection.execute("SELECT pg_total_relation_size(to_regclass(%s))", [name]).fetchone()
            assert row is not None
            return int(row[0])

    def _analyze(self) -> None:
        self._run("ANALYZE {}")
        self._expire()

    def _run(self, command: str) -> None:
        with self._database.alone() as connection:
            connection.execute(sql.SQL(command).format(self.table.identifier))


def _not_ours(address: PostgresUri) -> VectorIndexError:
    return VectorIndexError(
        f"There is a table '{address.table}', but it is no index yet. To use its vectors where they are: "
        f"routerretriever index adopt MODEL '{address.shown}' --id … --text … --vector …"
    )
