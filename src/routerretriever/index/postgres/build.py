"""Putting a whole source into a table of PostgreSQL, a chunk at a time.

Every chunk is one transaction. After a kill the same call continues: what is there with the same
content is neither encoded nor written again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from psycopg import sql

from routerretriever.data.document import Document
from routerretriever.errors import BuildError
from routerretriever.index.blocks import blocks
from routerretriever.index.build.build import stopped
from routerretriever.index.build.check_chunk import checked_rows
from routerretriever.index.build.chunks import Chunk, Listing, Problem
from routerretriever.index.build.read_chunk import Row, sampled_documents
from routerretriever.index.build.report import BuildReport
from routerretriever.index.build.settings import BuildSettings
from routerretriever.index.encoder import Encoder
from routerretriever.index.fields import is_missing, new_fields
from routerretriever.index.postgres.database import Connection
from routerretriever.index.postgres.table import PostgresTable
from routerretriever.index.postgres.writer import PostgresWriter, add_columns
from routerretriever.index.writer import BLOCK_ROWS
from routerretriever.progress import Progress

_GONE_ROWS = 4096


def build(
    table: PostgresTable,
    writer: PostgresWriter,
    listing: Listing,
    settings: BuildSettings,
    *,
    model: Encoder,
    precision: str,
    progress: Progress,
) -> BuildReport:
    """Put everything listed into a table; arguments as of :func:`routerretriever.index.build.build.build`.

    Raises:
        CollectionError: something cannot be indexed, and ``on_error`` is ``stop``.
        BuildError: another build of this table has not finished.
        StorageError: the server is gone; the chunks before are kept.
    """
    if settings.on_error == "quarantine":
        raise BuildError("PostgreSQL has no folder to keep lines in. Use --on-error skip.")
    if listing.problems and settings.on_error == "stop":
        raise stopped(listing.problems[0])
    work = _Build(
        table=table, writer=writer, listing=listing, settings=settings, model=model, precision=precision
    )
    with _only_build(table):
        return work.run(progress)


@contextmanager
def _only_build(table: PostgresTable) -> Iterator[None]:
    """Hold a lock that PostgreSQL releases when this process ends, however it ends."""
    name = f"routerretriever build of {table.schema}.{table.name}"
    with table.database.alone() as connection:
        row = connection.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", [name]).fetchone()
        if row is None or not row[0]:
            raise BuildError(f"Another build of '{table.name}' has not finished. Wait for it.")
        try:
            yield
        finally:
            if not connection.closed:
                connection.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", [name])


@dataclass(slots=True, kw_only=True)
class _Build:
    """One build; the arguments are those of :func:`build`."""

    table: PostgresTable
    writer: PostgresWriter
    listing: Listing
    settings: BuildSettings
    model: Encoder
    precision: str
    _seen: dict[str, str] = field(default_factory=dict, init=False)  # id → where it was
    _problems: list[Problem] = field(default_factory=list, init=False)
    _left_out: set[str] = field(default_factory=set, init=False)
    _encoded: int = field(default=0, init=False)
    _replaced: int = field(default=0, init=False)

    def run(self, progress: Progress) -> BuildReport:
        """Do all chunks, then look for what is gone from the source."""
        start = time.perf_counter()
        self._problems += [*self.listing.problems, *self.listing.unread]
        self._left_out.update(self.listing.left_out)
        self.writer.check_collection(self.listing.name)
        self._add_columns()
        rows = sum(chunk.stop - chunk.start for chunk in self.listing.chunks)
        with progress.task(f"index {self.listing.name}", rows) as task:
            for chunk in self.listing.chunks:
                self._do(chunk)
                task.advance(chunk.stop - chunk.start)
        gone = self._gone()
        return BuildReport(
            collection=self.listing.name,
            documents=len(self._seen),
            encoded=self._encoded,
            unchanged=len(self._seen) - self._encoded,
            replaced=self._replaced,
            gone=gone,
            pruned=bool(self.settings.prune),
            problems=tuple(self._problems),
            left_out=tuple(sorted(self._left_out)),
            other_files=self.listing.other_files,
            chunks=len(self.listing.chunks),
            seconds=round(time.perf_counter() - start, 3),
        )

    def _add_columns(self) -> None:
        if self.table.info.adopted:
            return
        with self.table.database.writing() as connection:
            self.table.lock_structure(connection)
            present = self.table.layout(connection).fields
            fields = new_fields(sampled_documents(self.listing.chunks), present)
            add_columns(connection, self.table, fields)

    def _do(self, chunk: Chunk) -> None:
        with self.table.database.reading() as connection:
            layout = self.table.layout(connection)
            check = self.writer.document_check(layout, {})
            rows, problems = checked_rows(chunk, check)
            rows = self._first_of_each(rows, chunk, problems)
            if problems and self.settings.on_error == "stop":
                raise stopped(problems[0])
            documents = [row.document for row in rows]
            known = self._known(connection, documents)
        self._problems += problems
        for row in rows:
            self._left_out.update(row.left_out)

        changed = [document for document in documents if known.get(document.id) != _content(document)]
        for block in blocks(changed, BLOCK_ROWS):
            texts = [document.content for document in block]
            vectors = self.model.embed_texts(texts, precision=self.precision)
            with self.table.database.writing() as connection:
                self.writer.write(connection, block, vectors, self.listing.name, {})
        self._encoded += len(changed)
        self._replaced += sum(document.id in known for document in changed)

    def _first_of_each(self, rows: Sequence[Row], chunk: Chunk, problems: list[Problem]) -> list[Row]:
        """Return the rows whose ids were in no chunk before."""
        kept = []
        for row in rows:
            where = chunk.where(row.line)
            earlier = self._seen.setdefault(row.document.id, where)
            if earlier == where:
                kept.append(row)
            else:
                problems.append(Problem(where, f"its id is in {earlier} too. Make ids unique."))
        return kept

    def _known(self, connection: Connection, documents: Sequence[Document]) -> dict[str, Any]:
        """Return what is stored of documents, by id, in the form of :func:`_content`."""
        info, layout = self.table.info, self.table.layout(connection)
        fields = list(layout.fields)
        if info.adopted:
            brought = {name for document in documents for name in document.metadata}
            fields = [name for name in fields if name in brought]
        title = sql.SQL("NULL") if info.columns.title is None else self.table.column("title")
        shown = [self.table.column("text"), title, *map(sql.Identifier, fields)]
        query = sql.SQL("SELECT {}::text, {} FROM {} WHERE {}").format(
            self.table.column("id"),
            sql.SQL(", ").join(shown),
            self.table.identifier,
            self._of_collection(sql.SQL("{}::text = ANY(%s)").format(self.table.column("id"))),
        )
        values = [[document.id for document in documents], *self._collection_value()]
        known = {}
        for document_id, text, found_title, *metadata in connection.execute(query, values, binary=True):
            present = zip(fields, metadata, strict=True)
            stored = {name: value for name, value in present if not is_missing(value)}
            known[document_id] = (text or "", found_title or "", stored)
        return known

    def _gone(self) -> int:
        """Count, and delete if asked, the rows of the collection that the source no longer has."""
        query = sql.SQL("SELECT {}::text FROM {} WHERE {}").format(
            self.table.column("id"), self.table.identifier, self._of_collection(sql.SQL("true"))
        )
        gone = []
        with (
            self.table.database.reading() as connection,
            connection.cursor("routerretriever_ids") as cursor,
        ):
            cursor.itersize = _GONE_ROWS
            cursor.execute(query, self._collection_value() or None)
            for (document_id,) in cursor:
                if document_id not in self._seen:
                    gone.append(document_id)
        if self.settings.prune and gone:
            with self.table.database.writing() as connection:
                self.writer.delete(connection, gone, self.listing.name)
        return len(gone)

    def _of_collection(self, condition: sql.Composable) -> sql.Composable:
        if self.table.info.columns.collection is None:
            return condition
        return sql.SQL("{} AND {} = %s").format(condition, self.table.column("collection"))

    def _collection_value(self) -> list[str]:
        return [] if self.table.info.columns.collection is None else [self.listing.name]


def _content(document: Document) -> Any:
    fields = {name: value for name, value in document.metadata.items() if not is_missing(value)}
    return document.text, document.title, fields
