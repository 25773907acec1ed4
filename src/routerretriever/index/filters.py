"""Conditions on documents as plain data: the one check of them, and the SQL that Lance runs.

Nothing that a caller wrote becomes part of the SQL as it is: fields must be columns of the
index, values have the column's type, operators come from a list.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from routerretriever.errors import FilterError
from routerretriever.index.schema import PLACE_COLUMNS, quoted

COMPARISONS = {"eq": "=", "ne": "!=", "lt": "<", "lte": "<=", "gt": ">", "gte": ">="}
_OPERATORS = ", ".join([*COMPARISONS, "in", "exists"])
_HIDDEN = ("vector", "key", "hash", *PLACE_COLUMNS)
_MOST_DEPTH = 16
_MOST_VALUES = 1000
_SHOWN_CHARACTERS = 60
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`")  # a doubled quote ends one and begins another

Condition = Mapping[str, Any]
"""What documents must satisfy, as plain data.

``{field: value}``, ``{field: {operator: value}}``, or ``{"and" | "or": [conditions]}``,
``{"not": condition}``. Several entries of one mapping must all hold.

``{field: None}`` and ``{field: {"exists": False}}`` ask for documents without the field,
``{field: {"exists": True}}`` and ``{field: {"ne": None}}`` for those that have it. A document
without the field satisfies no other condition on it, neither ``ne`` nor the ``not`` of a
comparison.
"""


@dataclass(frozen=True, slots=True)
class FieldTest:
    """A test of one field.

    Attributes:
        field: a column of the index.
        operator: one of :data:`COMPARISONS`, ``in`` or ``exists``.
        value: of the column's type; a list for ``in``, whether there is one for ``exists``.
    """

    field: str
    operator: str
    value: Any


@dataclass(frozen=True, slots=True)
class AllOf:
    """The entries of one mapping, which must all hold."""

    parts: Sequence[Node]


@dataclass(frozen=True, slots=True)
class Listed:
    """A list of conditions."""

    word: Literal["AND", "OR"]
    parts: Sequence[Node]


@dataclass(frozen=True, slots=True)
class Negated:
    """A condition that must not hold."""

    part: Node


Node = FieldTest | AllOf | Listed | Negated


def checked(condition: Condition, fields: Mapping[str, pa.DataType]) -> Node:
    """Return a condition whose fields, operators and values are known to fit.

    Args:
        condition: plain data.
        fields: types of the fields that may be filtered by.

    Raises:
        FilterError: it names a field or operator that does not exist, or a value of the wrong
            type.
    """
    return _all_of(condition, fields, 0)


def to_sql(condition: Condition, schema: pa.Schema) -> str:
    """Return the SQL of a condition on the columns of ``schema``; errors as :func:`checked`."""
    return _sql(checked(condition, filter_fields(schema)))


def filter_fields(schema: pa.Schema) -> dict[str, pa.DataType]:
    """Return the types of the columns that may be filtered by."""
    return {name: schema.field(name).type for name in schema.names if name not in _HIDDEN}


def as_sql(where: str | Condition | None, schema: pa.Schema) -> str | None:
    """Return SQL as it is given, and the SQL of a condition; ``None`` where everything is searched.

    Raises:
        FilterError: the condition cannot be understood.
    """
    if where is None or isinstance(where, str):
        _check_whole(where or "")
        return where or None
    return to_sql(where, schema)


def _check_whole(where: str) -> None:
    """Refuse what the engine would ignore: everything after a semicolon that is in no quotes."""
    if ";" in _QUOTED.sub("", where):
        raise FilterError(f"A condition has no ';', behind which nothing would be read: {where}")


def _sql(node: Node) -> str:
    match node:
        case AllOf(parts):
            return " AND ".join(map(_sql, parts))
        case Listed(word, parts):
            return "(" + f" {word} ".join(f"({_sql(part)})" for part in parts) + ")"
        case Negated(part):
            return f"(NOT ({_sql(part)}))"
        case FieldTest(field, "in", values):
            return f"`{field}` IN ({', '.join(map(_literal, values))})"
        case FieldTest(field, "exists", wanted):
            return f"`{field}` IS NOT NULL" if wanted else f"`{field}` IS NULL"
        case FieldTest(field, operator, value):
            return f"`{field}` {COMPARISONS[operator]} {_literal(value)}"


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).upper()
    return quoted(value) if isinstance(value, str) else repr(value)


def _all_of(condition: Any, fields: Mapping[str, pa.DataType], depth: int) -> Node:
    if not isinstance(condition, Mapping) or not condition:
        raise FilterError(
            f"A condition is a mapping such as {{'collection': 'scifact'}}, not {_shown(condition)}."
        )
    if depth > _MOST_DEPTH:
        raise FilterError(f"The filter is nested deeper than {_MOST_DEPTH} levels. Write it flatter.")
    return AllOf([_entry(key, value, fields, depth) for key, value in condition.items()])


def _entry(key: str, value: Any, fields: Mapping[str, pa.DataType], depth: int) -> Node:
    if key in ("and", "or"):
        parts = [_all_of(part, fields, depth + 1) for part in _several(value, key, "conditions")]
        return Listed("AND" if key == "and" else "OR", parts)
    if key == "not":
        return Negated(_all_of(value, fields, depth + 1))
    if key not in fields:
        raise FilterError(
            f"There is no field {_shown(key)} to filter by. The index has: {', '.join(fields)}."
        )
    tests = value if isinstance(value, Mapping) else {"eq": value}
    if not tests:
        raise FilterError(f"The condition on '{key}' is empty. Give a value, or operators: {_OPERATORS}.")
    return AllOf([_test(key, operator, operand, fields[key]) for operator, operand in tests.items()])


def _several(value: Any, what: str, of: str) -> Sequence[Any]:
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    if not is_list or not 0 < len(value) <= _MOST_VALUES:
        raise FilterError(f"'{what}' needs a list of 1 to {_MOST_VALUES} {of}.")
    found: Sequence[Any] = value
    return found


def _test(field: str, operator: str, value: Any, kind: pa.DataType) -> Node:
    if operator == "in":
        values = _several(value, "in", f"values for '{field}'")
        return FieldTest(field, "in", [_fitting(field, item, kind) for item in values])
    if operator == "exists":
        if not isinstance(value, bool):
            raise FilterError(f"'exists' needs true or false for '{field}', not {_shown(value)}.")
        return FieldTest(field, "exists", value)
    if operator not in COMPARISONS:
        raise FilterError(
            f"There is no operator {_shown(operator)} for '{field}'. Choose one of: {_OPERATORS}."
        )
    if value is None and operator in ("eq", "ne"):
        return FieldTest(field, "exists", operator == "ne")
    return FieldTest(field, operator, _fitting(field, value, kind))


def _fitting(field: str, value: Any, kind: pa.DataType) -> bool | int | float | str:
    """Return a value as one of the column's type."""
    if pa.types.is_boolean(kind) and isinstance(value, bool):
        return value
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    if pa.types.is_integer(kind) and numeric and abs(value) < 2**63 and value == int(value):
        return int(value)  # JSON does not tell 1990 from 1990.0
    if pa.types.is_floating(kind) and numeric and math.isfinite(value) and abs(value) < 1e300:
        return float(value)
    if pa.types.is_string(kind) and isinstance(value, str) and "\0" not in value:
        return value
    raise FilterError(f"The field '{field}' holds values of type {kind}, which {_shown(value)} is not.")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"
