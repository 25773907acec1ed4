"""Vector indexes of pgvector: which there are, and building one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import psycopg
from psycopg import sql

from routerretriever.errors import VectorIndexError
from routerretriever.index.kinds import EXACT_LIMIT, IndexKind
from routerretriever.index.postgres.database import Connection
from routerretriever.index.postgres.table import Layout, PostgresTable

MOST_DIMENSIONS = 2000
"""pgvector indexes no longer vectors."""

KINDS = ("auto", "flat", "ivf_flat", "hnsw")

_METHODS = {"hnsw": "hnsw", "ivf_flat": "ivfflat"}
_CLASSES = {"cosine": "vector_cosine_ops", "dot": "vector_ip_ops"}
_LISTS_ROWS = 1000  # rows of each list of an IVF index, as pgvector recommends
_MOST_MEMORY_KIB = 1 << 20
_GRAPH_BYTES = 250  # of a node beside its vector


def choose(rows: int, dimension: int) -> tuple[str, str]:
    """Return the kind that ``auto`` takes for this many rows, and why."""
    if rows <= EXACT_LIMIT:
        return "flat", f"up to {EXACT_LIMIT} documents all vectors are scanned, which is never wrong"
    if dimension > MOST_DIMENSIONS:
        return "flat", f"pgvector indexes no vectors of more than {MOST_DIMENSIONS} dimensions"
    return "hnsw", f"over {EXACT_LIMIT} documents, HNSW finds nearly as much in a fraction of the time"


def present(connection: Connection, table: PostgresTable) -> IndexKind:
    """Return the vector index that searches can use now."""
    row = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(table.identifier)).fetchone()
    assert row is not None
    rows = int(row[0])
    note: Mapping[str, Any] = table.info.kind or {}
    found = existing(connection, table)
    if not found:
        reason = "no approximate index was built" if rows > EXACT_LIMIT else choose(rows, 0)[1]
        return IndexKind("flat", note["reason"] if note.get("kind") == "flat" else reason, rows, 0.0)
    kind = next(name for name, method in _METHODS.items() if method == found[0][1])
    if note.get("kind") == kind:
        return IndexKind(kind, note["reason"], note["rows"], note["seconds"])
    return IndexKind(kind, "it was there before", rows, 0.0)


def existing(connection: Connection, table: PostgresTable) -> list[tuple[str, str]]:
    """Return names and methods of the indexes that fit the vectors and their comparison."""
    rows = connection.execute(
        "SELECT c.relname, am.amname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
        "JOIN pg_am am ON am.oid = c.relam JOIN pg_opclass o ON o.oid = i.indclass[0] "
        "JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] "
        "WHERE i.indrelid = to_regclass(%s) AND i.indisvalid AND i.indpred IS NULL "
        "AND a.attname = %s AND o.opcname = %s AND am.amname = ANY(%s) ORDER BY c.relname",
        [
            table.identifier.as_string(connection),
            table.info.columns.vector,
            _CLASSES[table.info.similarity],
            list(_METHODS.values()),
        ],
    ).fetchall()
    return [(name, method) for name, method in rows]


def build(connection: Connection, table: PostgresTable, layout: Layout, kind: str) -> IndexKind:
    """Build the vector index again, or drop it for ``flat``, and record the choice.

    The transaction keeps the old index in use until the new one is whole.

    Raises:
        VectorIndexError: there is no such kind, or it cannot be built for these vectors.
    """
    if kind not in KINDS:
        raise VectorIndexError(
            f"There is no kind of index '{kind}' in PostgreSQL. Choose one of: {', '.join(KINDS)}."
        )
    row = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(table.identifier)).fetchone()
    assert row is not None
    rows = int(row[0])
    wanted, reason = choose(rows, layout.dimension) if kind == "auto" else (kind, "asked for")
    if wanted != "flat" and layout.dimension > MOST_DIMENSIONS:
        raise VectorIndexError(
            f"pgvector indexes vectors of up to {MOST_DIMENSIONS} dimensions; these have "
            f"{layout.dimension}. Take flat."
        )
    start = time.perf_counter()
    for name, _ in existing(connection, table):
        connection.execute(sql.SQL("DROP INDEX {}").format(sql.Identifier(table.schema, name)))
    if wanted != "flat":
        _create(connection, table, layout, wanted, rows)
    built = IndexKind(wanted, reason, rows, round(time.perf_counter() - start, 2))
    table.record(connection, kind=asdict(built) | {"auto": kind == "auto"})
    return built


def _create(connection: Connection, table: PostgresTable, layout: Layout, kind: str, rows: int) -> None:
    needed = rows * (4 * layout.dimension + _GRAPH_BYTES) // 1024
    memory = str(min(max(needed, 1 << 16), _MOST_MEMORY_KIB))
    connection.execute("SELECT set_config('maintenance_work_mem', %s, true)", [memory])
    options: sql.Composable = sql.SQL("")
    if kind == "ivf_flat":
        lists = max(1, rows // _LISTS_ROWS)
        options = sql.SQL(" WITH (lists = {})").format(sql.Literal(lists))
    command = sql.SQL("CREATE INDEX ON {} USING {} ({} {}){}").format(
        table.identifier,
        sql.SQL(_METHODS[kind]),
        table.column("vector"),
        sql.SQL(_CLASSES[table.info.similarity]),
        options,
    )
    try:
        with connection.transaction():
            connection.execute(command)
    except psycopg.errors.DiskFull:
        # Containers give little shared memory, which only several workers need.
        connection.execute("SELECT set_config('max_parallel_maintenance_workers', '0', true)")
        connection.execute(command)
