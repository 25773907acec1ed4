"""Keeping a table of PostgreSQL in shape."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from psycopg import sql

from routerretriever.errors import BuildError, VectorIndexError
from routerretriever.index.kinds import IndexKind
from routerretriever.index.maintenance import Builder
from routerretriever.index.postgres import vector_index
from routerretriever.index.postgres.database import Connection
from routerretriever.index.postgres.table import PostgresTable
from routerretriever.index.postgres.words import WordStatistics, add_words, drop_words
from routerretriever.index.reports import Cleaned, Compacted, Flushed, IndexInfo, Refreshed
from routerretriever.index.texts import TextIndex
from routerretriever.progress import Progress
from routerretriever.words.text_index import AUTO, SAMPLE, TextSettings, Tokenizer


class PostgresMaintenance:
    """Builds and describes the indexes of a table.

    Attributes:
        table: what is stored.
    """

    def __init__(self, table: PostgresTable) -> None:
        self.table = table
        self._database = table.database
        self._statistics = WordStatistics(table)

    @property
    def kind(self) -> IndexKind:
        with self._database.reading() as connection:
            return vector_index.present(connection, self.table)

    @contextmanager
    def _changing(self) -> Iterator[Connection]:
        try:
            with self._database.writing() as connection:
                yield connection
        finally:
            self._expire()

    @contextmanager
    def _restructuring(self) -> Iterator[Connection]:
        with self._changing() as connection:
            self.table.lock_structure(connection)
            yield connection

    def _expire(self) -> None:
        self.table.expire()
        self._statistics.expire()

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
            raise BuildError("A cluster builds indexes of Lance, not of PostgreSQL. Leave out --cluster.")
        with self._restructuring() as connection:
            layout = self.table.layout(connection)
            return vector_index.build(connection, self.table, layout, kind)

    def build_text_index(self, settings: TextSettings) -> TextIndex:
        if settings.tokenizer not in (AUTO, Tokenizer.SIMPLE):
            raise VectorIndexError(
                f"PostgreSQL splits words itself: there is no tokenizer '{settings.tokenizer}'. Use simple."
            )
        start = time.perf_counter()
        with self._restructuring() as connection:
            simple = TextSettings(tokenizer=Tokenizer.SIMPLE, language=settings.language)
            chosen = simple.chosen_for(self._sample(connection))
            add_words(connection, self.table, chosen.language)
            self.table.record(connection, language=chosen.language, keeps_words=True)
        self._analyze()
        seconds = round(time.perf_counter() - start, 2)
        return TextIndex(tokenizer=chosen.tokenizer, language=chosen.language, seconds=seconds)

    def drop_text_index(self) -> None:
        with self._restructuring() as connection:
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
            collections=dict(sorted(counts.items())),
            passages=sum(counts.values()),
            kind=kind,
            text=text,
            unindexed=0,
            fragments=None,
            versions=None,
            bytes=self._bytes(),
            fingerprint=info.fingerprint,
            model=info.model,
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
