"""Searching one state of a table in PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from psycopg import sql

from routerretriever.index.encoder import Vectors
from routerretriever.index.parameters import SearchParameters
from routerretriever.index.postgres.conditions import Where, filter_fields
from routerretriever.index.postgres.database import Connection
from routerretriever.index.postgres.table import WORDS, Layout, PostgresTable
from routerretriever.index.postgres.words import K1, B, WordStatistics, quoted, rarest, words_of
from routerretriever.index.view import Metric, Record, RowIds

LEAST_EF = 100
"""Nodes that a search of a graph keeps at least."""

MOST_EF = 1000
"""pgvector keeps no more."""

_OPERATORS = {"cosine": "<=>", "dot": "<#>"}
_OFFSET_BITS = 16  # of a row's address: its page's number, then its place there


@dataclass(slots=True, kw_only=True)
class PostgresView:
    """One state of an index, as a transaction sees it; see :class:`routerretriever.index.view.View`.

    Attributes:
        connection: within the transaction.
        table: that is read.
        layout: its columns.
        where: condition, or ``None``.
        statistics: of its words.
    """

    connection: Connection
    table: PostgresTable
    layout: Layout
    where: Where | None
    statistics: WordStatistics
    _settings: dict[str, str] = field(default_factory=dict, init=False)

    @property
    def metric(self) -> Metric:
        return "cosine" if self.table.info.similarity == "cosine" else "dot"

    @property
    def has_passages(self) -> bool:
        return False

    def nearest(self, vector: Vectors, k: int, parameters: SearchParameters | None) -> tuple[RowIds, Vectors]:
        self._set(how_to_search(k, parameters, filtered=self.where is not None))
        column = self.table.column("vector")
        operator = sql.SQL(_OPERATORS[self.metric])
        condition = [sql.SQL("{} IS NOT NULL").format(column)]
        query = sql.SQL(
            "SELECT ctid, {column} {operator} %s AS distance FROM {table} {where} ORDER BY distance LIMIT %s"
        ).format(
            column=column,
            operator=operator,
            table=self.table.identifier,
            where=self._where(*condition),
        )
        values = (np.asarray(vector, np.float32), *self._values, k)
        rows, distances = self._pairs(query, values)
        similarities = 1.0 - distances if self.metric == "cosine" else -distances
        # A vector of zeros has no angle to any other.
        return rows, np.nan_to_num(similarities, nan=0.0).astype(np.float32)

    def matching(self, query: str, k: int) -> tuple[RowIds, NDArray[np.float32]]:
        words = words_of(self.connection, query, self.table.info.language or "none")
        weights = self.statistics.inverse_frequencies(self.connection, words)
        if not weights:
            return np.empty(0, np.uint64), np.empty(0, np.float32)
        counts = {word: self.statistics.documents_with(self.connection, word) for word in weights}
        wanted = " | ".join(map(quoted, rarest(weights, counts)))

        # BM25 of a word is idf · tf · (k1 + 1) / (tf + n), and tf / (tf + n) is 1 - n / (tf + n).
        one = sql.SQL("%s * (1 - n / (ts_rank_cd('{{1,1,1,1}}', words, %s::tsquery) + n))")
        asked = sql.SQL(
            "SELECT address, {score} AS score FROM ("
            "SELECT ctid AS address, {words} AS words, %s + %s * length({words}) AS n "
            "FROM {table} {where} OFFSET 0) found ORDER BY score DESC, address LIMIT %s"
        ).format(
            score=sql.SQL(" + ").join([one.format()] * len(weights)),
            words=sql.Identifier(WORDS),
            table=self.table.identifier,
            where=self._where(sql.SQL("{} @@ %s::tsquery").format(sql.Identifier(WORDS))),
        )
        scored: list[Any] = []
        for word, weight in weights.items():
            scored += [weight * (K1 + 1.0), quoted(word)]
        length = K1 * B / self.statistics.mean_length
        values = (*scored, K1 * (1.0 - B), length, wanted, *self._values, k)
        rows, scores = self._pairs(asked, values)
        return rows, scores.astype(np.float32)

    @property
    def fields(self) -> Mapping[str, pa.DataType]:
        return filter_fields(self.table, self.layout)

    def count_documents(self) -> int:
        return self.count()

    def count(self) -> int:
        query = sql.SQL("SELECT count(*) FROM {} {}").format(self.table.identifier, self._where())
        row = self.connection.execute(query, self._values).fetchone()
        assert row is not None
        return int(row[0])

    def first_rows(self, offset: int, limit: int) -> RowIds:
        query = sql.SQL("SELECT ctid, 0.0 FROM {} {} ORDER BY ctid OFFSET %s LIMIT %s").format(
            self.table.identifier, self._where()
        )
        return self._pairs(query, (*self._values, offset, limit))[0]

    def documents(self, rows: RowIds) -> NDArray[np.intp]:
        return np.arange(len(rows), dtype=np.intp)

    def vectors(self, rows: RowIds) -> Vectors:
        found = self._by_address(rows, [self.table.column("vector")])
        if not found:
            return np.empty((0, self.layout.dimension), np.float32)
        return np.stack([vector.to_numpy() for (vector,) in found])

    def records(self, rows: RowIds) -> Sequence[Record]:
        shown = shown_columns(self.table, self.layout)
        return [record_of(row, self.table, self.layout) for row in self._by_address(rows, shown)]

    # -- SQL ---------------------------------------------------------------------------------

    def _where(self, *conditions: sql.Composable) -> sql.Composable:
        wanted = list(conditions)
        if self.where is not None:
            wanted.append(self.where.sql)
        return sql.SQL("WHERE {}").format(sql.SQL(" AND ").join(wanted)) if wanted else sql.SQL("")

    @property
    def _values(self) -> tuple[Any, ...]:
        return () if self.where is None else self.where.values

    def _set(self, settings: dict[str, str]) -> None:
        for name, value in settings.items():
            if self._settings.get(name) != value:
                self.connection.execute("SELECT set_config(%s, %s, true)", [name, value])
                self._settings[name] = value

    def _pairs(self, query: sql.Composed, values: Sequence[Any]) -> tuple[RowIds, NDArray[np.float64]]:
        found = self.connection.execute(query, values, binary=True).fetchall()
        rows = np.array([_number(address) for address, _ in found], np.uint64)
        return rows, np.array([value for _, value in found], np.float64)

    def _by_address(self, rows: RowIds, columns: Sequence[sql.Composable]) -> list[Sequence[Any]]:
        """Return columns of rows, in their order."""
        numbers = rows.tolist()
        addresses = [f"({row >> _OFFSET_BITS},{row & (1 << _OFFSET_BITS) - 1})" for row in numbers]
        query = sql.SQL("SELECT ctid, {} FROM {} WHERE ctid = ANY(%s::tid[])").format(
            sql.SQL(", ").join(columns), self.table.identifier
        )
        found = {}
        for address, *values in self.connection.execute(query, [addresses], binary=True):
            found[_number(address)] = values
        return [found[row] for row in numbers]


def shown_columns(table: PostgresTable, layout: Layout) -> list[sql.Composable]:
    """Return the columns that :func:`record_of` reads."""
    columns = table.info.columns
    return [
        sql.SQL("{}::text").format(table.column("id")),
        sql.SQL("coalesce({}, '')").format(table.column("text")),
        sql.SQL("NULL") if columns.title is None else table.column("title"),
        sql.SQL("NULL") if columns.collection is None else table.column("collection"),
        *map(sql.Identifier, layout.fields),
    ]


def record_of(row: Sequence[Any], table: PostgresTable, layout: Layout) -> Record:
    """Return a row of :func:`shown_columns` as it is shown."""
    document_id, text, title, collection, *metadata = row
    return Record(
        collection=table.info.collection if collection is None else collection,
        id=document_id,
        title=title,
        text=text,
        metadata=dict(zip(layout.fields, metadata, strict=True)),
    )


def how_to_search(k: int, parameters: SearchParameters | None, *, filtered: bool) -> dict[str, str]:
    """Return PostgreSQL's settings for a search for k rows; without parameters it scans all vectors."""
    if parameters is None:
        return {"enable_indexscan": "off"}
    ef = max(k, parameters.ef or LEAST_EF)
    return {
        "enable_indexscan": "on",
        "hnsw.ef_search": str(min(ef, MOST_EF)),
        "ivfflat.probes": str(parameters.nprobes),
        # What a filter leaves may be far away: go on until there are enough.
        "hnsw.iterative_scan": "strict_order" if filtered or k > MOST_EF else "off",
        "ivfflat.iterative_scan": "relaxed_order" if filtered else "off",
    }


def _number(address: bytes) -> int:
    return int.from_bytes(address, "big")
