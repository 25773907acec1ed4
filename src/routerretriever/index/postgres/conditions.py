"""Conditions on documents as SQL of PostgreSQL, with the values beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from psycopg import sql

from routerretriever.index.filters import (
    COMPARISONS,
    AllOf,
    Condition,
    FieldTest,
    Listed,
    Negated,
    Node,
    checked,
)
from routerretriever.index.postgres.table import Layout, PostgresTable

_TEXTS = ("text", "varchar", "bpchar")


@dataclass(frozen=True, slots=True)
class Where:
    """A condition in SQL, and the values of its placeholders."""

    sql: sql.Composable
    values: tuple[Any, ...] = ()


def where_of(condition: str | Condition | None, table: PostgresTable, layout: Layout) -> Where | None:
    """Return a condition in SQL; ``None`` where everything is searched.

    SQL that is given as a text is the caller's own: it runs in a transaction that changes
    nothing, with the rights of the connection.

    Raises:
        FilterError: the condition cannot be understood.
    """
    if not condition:
        return None
    if isinstance(condition, str):
        return Where(sql.SQL("(" + condition.replace("%", "%%") + "\n)"))
    fields = filter_fields(table, layout)
    return _Renderer(table, layout).render(checked(condition, fields))


def filter_fields(table: PostgresTable, layout: Layout) -> dict[str, pa.DataType]:
    """Return the types of the fields that can be filtered by."""
    own = {role: pa.string() for role in ("id", "collection", "text")}
    if table.info.columns.title is not None:
        own["title"] = pa.string()
    return {**own, **layout.fields}


@dataclass(frozen=True, slots=True)
class _Renderer:
    table: PostgresTable
    layout: Layout

    def render(self, node: Node) -> Where:
        match node:
            case AllOf(parts):
                return self._joined(" AND ", parts)
            case Listed(word, parts):
                return self._joined(f" {word} ", parts)
            case Negated(part):
                inner = self.render(part)
                return Where(sql.SQL("(NOT {})").format(inner.sql), inner.values)
            case FieldTest():
                return self._test(node)

    def _joined(self, word: str, parts: Sequence[Node]) -> Where:
        rendered = [self.render(part) for part in parts]
        joined = sql.SQL(word).join([part.sql for part in rendered])
        values = tuple(value for part in rendered for value in part.values)
        return Where(sql.SQL("({})").format(joined), values)

    def _test(self, test: FieldTest) -> Where:
        column = self.column(test.field)
        if test.operator == "exists":
            word = "IS NOT NULL" if test.value else "IS NULL"
            return Where(sql.SQL("({} " + word + ")").format(column.sql), column.values)
        if test.operator == "in":
            return Where(sql.SQL("({} = ANY(%s))").format(column.sql), (*column.values, list(test.value)))
        operator = sql.SQL(COMPARISONS[test.operator])
        # Lance orders texts by their characters, not by a language.
        ordered = isinstance(test.value, str) and test.operator not in ("eq", "ne")
        collate = sql.SQL(' COLLATE "C"' if ordered else "")
        written = sql.SQL("({}{} {} %s)").format(column.sql, collate, operator)
        return Where(written, (*column.values, test.value))

    def column(self, field: str) -> Where:
        """Return a field's column as an expression."""
        columns = self.table.info.columns
        if field == "collection" and columns.collection is None:
            return Where(sql.SQL("%s::text"), (self.table.info.collection,))
        name = columns.used().get(field, field)
        if field == "id" and self.layout.types[name] not in _TEXTS:
            return Where(sql.SQL("{}::text").format(sql.Identifier(name)))
        return Where(sql.Identifier(name))
