"""Using a table that is there already: its vectors are measured, and nothing in it is changed."""

from __future__ import annotations

from typing import Any

import numpy as np
from psycopg import sql

from routerretriever.errors import FingerprintError, VectorIndexError
from routerretriever.index.encoder import Encoder, Vectors
from routerretriever.index.postgres.database import Connection, Database
from routerretriever.index.postgres.table import (
    Columns,
    PostgresTable,
    TableInfo,
    find_table,
    read_record,
    write_record,
)
from routerretriever.index.postgres_uri import PostgresUri
from routerretriever.index.reports import Adopted

CHECKED = 64
"""Documents that are encoded again."""

AGREEMENT = 0.98
"""Cosine of both vectors that counts as the same: other libraries and precisions differ less."""

AGREEING = 0.95
"""Share of the documents that must agree."""

_NORM = 0.02  # that lengths may differ by, where they count
_TIED = 1e-4  # cosines that differ by less: texts that are there twice
_DRAWN = 4  # times as many rows are drawn as are checked


def adopt(
    connection: Connection,
    database: Database,
    uri: PostgresUri,
    model: Encoder,
    columns: Columns,
    *,
    collection: str,
    place: str,
) -> tuple[PostgresTable, Adopted]:
    """Record a table as an index, if its vectors are those of the model's base.

    Args:
        connection: within a transaction.
        database: of the table.
        uri: of the table.
        model: whose base has encoded the documents.
        columns: of the documents.
        collection: of all documents, where no column says it.
        place: of the model; empty if unknown.

    Raises:
        FingerprintError: the vectors are another base's.
        VectorIndexError: there is no such table or column, it is an index already, or ids repeat.
    """
    schema, found = find_table(connection, uri)
    if not found:
        raise VectorIndexError(f"There is no table '{uri.table}' in {uri.shown}.")
    if read_record(connection, schema, uri.table, uri.shown) is not None:
        raise VectorIndexError(f"{uri.shown} is an index already.")
    info = TableInfo(
        fingerprint=model.fingerprint,
        similarity=model.similarity_fn_name,
        model=place,
        columns=columns,
        adopted=True,
        collection=collection,
    )
    table = PostgresTable(database, schema, uri.table, info)
    layout = table.layout(connection)
    if layout.dimension != model.dimension:
        raise FingerprintError(
            f"The column '{columns.vector}' holds vectors of {_length(layout.dimension)}, the model makes "
            f"{model.dimension} dimensions. If they are as long: ALTER TABLE {uri.table} ALTER COLUMN "
            f"{columns.vector} TYPE vector({model.dimension})"
        )
    _refuse_repeated_ids(connection, table)
    documents, rows = _counts(connection, table)
    agreement, checked = _measure(connection, table, model, documents)
    write_record(connection, schema, uri.table, info)
    return table, Adopted(
        documents=documents,
        incomplete=rows - documents,
        checked=checked,
        agreement=round(agreement, 4),
        replaces=_keeps_ids_unique(connection, table),
        left_alone=layout.others,
    )


def _measure(
    connection: Connection, table: PostgresTable, model: Encoder, documents: int
) -> tuple[float, int]:
    """Encode some documents again, and return the mean cosine with what is stored, and how many they are."""
    texts, stored = _sample(connection, table, documents)
    if not texts:
        raise VectorIndexError(f"'{table.name}' has no row with a text and a vector that could be checked.")
    encoded = model.embed_texts(texts)
    norms = np.linalg.norm(stored, axis=1), np.linalg.norm(encoded, axis=1)
    products = np.outer(*norms)
    cosines = np.divide(stored @ encoded.T, products, out=np.zeros_like(products), where=products > 0)
    own = cosines.diagonal()
    # Vectors of some bases all resemble each other, so each must also be closest to its own text.
    agree = (own >= AGREEMENT) & (own >= cosines.max(axis=1) - _TIED)
    if table.info.similarity == "dot":
        agree &= np.abs(norms[0] - norms[1]) <= _NORM * norms[1]
    mean = float(own.mean())
    if agree.mean() < AGREEING:
        raise FingerprintError(
            f"The vectors in '{table.info.columns.vector}' are not those of the model's base: of {len(texts)} "
            f"documents {int(agree.sum())} agree (cosine of at least {AGREEMENT}; mean {mean:.2f}). Use the "
            "model that made them. If titles were encoded with the texts, name their column too; it reads "
            "'title text'."
        )
    return mean, len(texts)


def _sample(connection: Connection, table: PostgresTable, documents: int) -> tuple[list[str], Vectors]:
    percent = min(100.0, 100.0 * _DRAWN * CHECKED / max(1, documents))
    title = sql.SQL("''") if table.info.columns.title is None else table.column("title")
    query = sql.SQL(
        "SELECT trim(coalesce({}, '') || ' ' || {}), {} FROM {} TABLESAMPLE BERNOULLI (%s) WHERE {} "
        "ORDER BY random() LIMIT %s"
    ).format(title, table.column("text"), table.column("vector"), table.identifier, _complete(table))
    rows = connection.execute(query, [percent, CHECKED], binary=True).fetchall()
    vectors = [vector.to_numpy() for _, vector in rows]
    return [text for text, _ in rows], np.array(vectors, np.float32)


def _complete(table: PostgresTable) -> sql.Composed:
    text, vector = table.column("text"), table.column("vector")
    return sql.SQL("{} IS NOT NULL AND {} IS NOT NULL").format(text, vector)


def _counts(connection: Connection, table: PostgresTable) -> tuple[int, int]:
    query = sql.SQL("SELECT count(*) FILTER (WHERE {}), count(*) FROM {}")
    row = connection.execute(query.format(_complete(table), table.identifier)).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


def _refuse_repeated_ids(connection: Connection, table: PostgresTable) -> None:
    key = sql.SQL(", ").join(map(sql.Identifier, table.info.columns.key()))
    query = sql.SQL("SELECT {}::text FROM {} GROUP BY {} HAVING count(*) > 1 OR bool_or({} IS NULL) LIMIT 1")
    found = connection.execute(
        query.format(table.column("id"), table.identifier, key, table.column("id"))
    ).fetchone()
    if found is not None:
        raise VectorIndexError(
            f"The ids in '{table.info.columns.id}' are no ids: {found[0]!r} is there twice, or is null. Name "
            "a column whose values are unique, or the column of collections."
        )


def _keeps_ids_unique(connection: Connection, table: PostgresTable) -> bool:
    """Return whether a unique index has exactly the columns of the key."""
    rows: list[Any] = connection.execute(
        "SELECT array_agg(a.attname::text ORDER BY a.attname) FROM pg_index i "
        "JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey) "
        "WHERE i.indrelid = to_regclass(%s) AND i.indisunique AND i.indpred IS NULL AND i.indexprs IS NULL "
        "GROUP BY i.indexrelid",
        [table.identifier.as_string(connection)],
    ).fetchall()
    return any(names == sorted(table.info.columns.key()) for (names,) in rows)


def _length(dimension: int) -> str:
    return f"{dimension} dimensions" if dimension > 0 else "any length"
