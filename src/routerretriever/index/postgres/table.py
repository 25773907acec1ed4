"""The table of an index in PostgreSQL, and what is recorded about it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import pyarrow as pa
from psycopg import sql

from routerretriever.errors import VectorIndexError
from routerretriever.index.postgres.database import Connection, Database
from routerretriever.index.postgres_uri import PostgresUri

TABLE_FORMAT = 1
"""Format of what is recorded; a newer one is refused."""

RECORDS = "routerretriever_indexes"
"""Table that records the indexes of a schema."""

WORDS = "routerretriever_words"
"""Column with the words of title and text."""

_COLUMNS_SECONDS = 2.0  # that columns which others have added may stay unseen

TYPES: Mapping[str, pa.DataType] = {
    "text": pa.string(),
    "varchar": pa.string(),
    "bpchar": pa.string(),
    "bool": pa.bool_(),
    "int2": pa.int64(),
    "int4": pa.int64(),
    "int8": pa.int64(),
    "float4": pa.float64(),
    "float8": pa.float64(),
}
"""What fields of these types hold; columns of other types are left alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Names of the columns of documents.

    Attributes:
        id: unique, or unique in its collection.
        text: of the document.
        vector: of pgvector.
        title: ``None`` if there are no titles.
        collection: ``None`` if all documents are of one collection.
    """

    id: str = "id"
    text: str = "text"
    vector: str = "vector"
    title: str | None = "title"
    collection: str | None = "collection"

    def key(self) -> list[str]:
        """Return the columns that together say which document a row is."""
        return [name for name in (self.collection, self.id) if name is not None]

    def used(self) -> dict[str, str]:
        """Return the columns there are, by what they hold."""
        return {role: name for role, name in asdict(self).items() if name is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class TableInfo:
    """What is recorded about an index.

    Attributes:
        fingerprint: of the base that encodes the documents.
        similarity: ``cosine`` or ``dot``.
        model: place of the model; empty if unknown.
        columns: of the documents.
        adopted: whether the table was there before; it gets no columns for new fields.
        collection: of all documents, where no column says it.
        language: whose words are stemmed; ``None`` without a text index.
        keeps_words: whether the first write builds a text index.
        kind: what was asked of the vector index: its kind, the reason, rows and seconds.
    """

    fingerprint: str
    similarity: str
    model: str
    columns: Columns
    adopted: bool = False
    collection: str = ""
    language: str | None = None
    keeps_words: bool = True
    kind: Mapping[str, Any] | None = None

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Return what :func:`dataclasses.asdict` has written."""
        fields = {name: value for name, value in content.items() if name != "format_version"}
        return cls(**fields | {"columns": Columns(**content["columns"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The columns that a table has now.

    Attributes:
        dimension: length of the vectors.
        fields: name → type of the metadata fields.
        types: name → PostgreSQL's name of the type, of all columns.
        computed: columns that PostgreSQL computes itself.
        others: columns of types that no field has.
    """

    dimension: int
    fields: Mapping[str, pa.DataType]
    types: Mapping[str, str]
    computed: frozenset[str]
    others: tuple[str, ...]

    @property
    def has_words(self) -> bool:
        """Whether the table can be searched by words."""
        return WORDS in self.types


class PostgresTable:
    """The table of one index.

    Attributes:
        database: where it is.
        schema, name: of the table.
        info: what is recorded about it.
    """

    def __init__(self, database: Database, schema: str, name: str, info: TableInfo) -> None:
        self.database = database
        self.schema = schema
        self.name = name
        self.info = info
        self._layout: Layout | None = None
        self._looked = 0.0

    @property
    def identifier(self) -> sql.Identifier:
        """The table in SQL."""
        return sql.Identifier(self.schema, self.name)

    def column(self, role: str) -> sql.Identifier:
        """Return the column for ``id``, ``text`` and so on in SQL."""
        return sql.Identifier(self.info.columns.used()[role])

    def lock_structure(self, connection: Connection) -> None:
        """Let no other transaction change columns or indexes until this one ends.

        Call it before anything of the table is read: of two that hold the table while they wait for
        each other, PostgreSQL ends one.
        """
        name = f"routerretriever structure of {self.schema}.{self.name}"
        connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [name])
        self.expire()

    def layout(self, connection: Connection) -> Layout:
        """Return the columns; those that another process adds are seen two seconds later."""
        now = time.monotonic()
        if self._layout is None or now - self._looked > _COLUMNS_SECONDS:
            self._layout = read_layout(connection, self.schema, self.name, self.info.columns)
            self._looked = now
        return self._layout

    def expire(self) -> None:
        """Read the columns again when they are next needed."""
        self._layout = None

    def record(self, connection: Connection, **changes: Any) -> None:
        """Change what is recorded; it holds once the transaction does."""
        self.info = replace(self.info, **changes)
        write_record(connection, self.schema, self.name, self.info)
        self.expire()


def find_table(connection: Connection, uri: PostgresUri) -> tuple[str, bool]:
    """Return the schema of a table, which may not exist yet, and whether it does.

    Raises:
        VectorIndexError: the name is that of a view or of a table of another kind.
    """
    wanted = sql.Identifier(*filter(None, (uri.schema, uri.table))).as_string(connection)
    found = connection.execute(
        "SELECT nspname, relkind FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace "
        "WHERE pg_class.oid = to_regclass(%s)",
        [wanted],
    ).fetchone()
    if found is None:
        schema = uri.schema or _scalar(connection, "SELECT current_schema()")
        if schema is None:
            raise VectorIndexError(f"{uri.shown}: the search path names no schema. Give table=SCHEMA.NAME.")
        return str(schema), False
    schema, kind = found
    if kind not in ("r", b"r"):
        raise VectorIndexError(
            f"{uri.shown}: '{uri.table}' is a view, a partitioned table or the like. Name a plain table."
        )
    return str(schema), True


def read_record(connection: Connection, schema: str, name: str, shown: str) -> TableInfo | None:
    """Return what is recorded about a table; ``None`` if nothing is.

    Raises:
        VectorIndexError: a newer version recorded it.
    """
    records = sql.Identifier(schema, RECORDS)
    if _scalar(connection, "SELECT to_regclass(%s)", records.as_string(connection)) is None:
        return None
    content = _scalar(connection, sql.SQL("SELECT info FROM {} WHERE name = %s").format(records), name)
    if content is None:
        return None
    if content["format_version"] > TABLE_FORMAT:
        raise VectorIndexError(
            f"The index {shown} has format {content['format_version']}, this version reads up to "
            f"{TABLE_FORMAT}. Upgrade routerretriever."
        )
    return TableInfo.from_dict(content)


def write_record(connection: Connection, schema: str, name: str, info: TableInfo) -> None:
    """Record an index; it holds once the transaction does."""
    records = sql.Identifier(schema, RECORDS)
    connection.execute(
        sql.SQL("CREATE TABLE IF NOT EXISTS {} (name text PRIMARY KEY, info jsonb NOT NULL)").format(records)
    )
    content = json.dumps({"format_version": TABLE_FORMAT} | asdict(info))
    connection.execute(
        sql.SQL(
            "INSERT INTO {} VALUES (%s, %s) ON CONFLICT (name) DO UPDATE SET info = EXCLUDED.info"
        ).format(records),
        [name, content],
    )


def read_layout(connection: Connection, schema: str, name: str, columns: Columns) -> Layout:
    """Return the columns of a table.

    Raises:
        VectorIndexError: one of those of documents is not there, or has the wrong type.
    """
    rows = connection.execute(
        "SELECT attname, typname, atttypmod, attgenerated <> '' FROM pg_attribute "
        "JOIN pg_type ON pg_type.oid = atttypid WHERE attrelid = to_regclass(%s) AND attnum > 0 "
        "AND NOT attisdropped ORDER BY attnum",
        [sql.Identifier(schema, name).as_string(connection)],
    ).fetchall()
    types = {column: kind for column, kind, _, _ in rows}
    own = columns.used()
    for role, column in own.items():
        if column not in types:
            raise VectorIndexError(
                f"The table '{name}' has no column '{column}' for the {role}. It has: {', '.join(types)}."
            )
    if types[columns.vector] != "vector":
        raise VectorIndexError(
            f"The column '{columns.vector}' is of type {types[columns.vector]}. Documents need one of "
            "pgvector's type vector."
        )
    for role in ("text", "title", "collection"):
        if role in own and types[own[role]] not in ("text", "varchar", "bpchar"):
            raise VectorIndexError(f"The column '{own[role]}' for the {role} holds no text.")
    fields: dict[str, pa.DataType] = {}
    others = []
    for column, kind, _, _ in rows:
        if column in own.values() or column == WORDS:
            continue
        if kind in TYPES:
            fields[column] = TYPES[kind]
        else:
            others.append(column)
    return Layout(
        dimension=max(int(modifier) for column, _, modifier, _ in rows if column == columns.vector),
        fields=fields,
        types=types,
        computed=frozenset(column for column, _, _, computed in rows if computed),
        others=tuple(others),
    )


def _scalar(connection: Connection, query: Any, *values: Any) -> Any:
    found = connection.execute(query, values or None).fetchone()
    return None if found is None else found[0]
