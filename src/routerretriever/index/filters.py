"""Conditions on documents as plain data, and the SQL that the index runs.

Nothing that a caller wrote becomes part of the SQL as it is: fields must be columns of the
index, values are literals of the column's type, operators come from a list.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from routerretriever.errors import FilterError

_COMPARISONS = {"eq": "=", "ne": "!=", "lt": "<", "lte": "<=", "gt": ">", "gte": ">="}
_OPERATORS = ", ".join([*_COMPARISONS, "in", "exists"])
_HIDDEN = ("vector", "key", "hash")
_MOST_DEPTH = 16
_MOST_VALUES = 1000
_SHOWN_CHARACTERS = 60

Condition = Mapping[str, Any]
"""What documents must satisfy, as plain data.

``{field: value}``, ``{field: {operator: value}}``, or ``{"and" | "or": [conditions]}``,
``{"not": condition}``. Several entries of one mapping must all hold.

``{field: None}`` and ``{field: {"exists": False}}`` ask for documents without the field,
``{field: {"exists": True}}`` and ``{field: {"ne": None}}`` for those that have it. A document
without the field satisfies no other condition on it, neither ``ne`` nor the ``not`` of a
comparison.
"""


def to_sql(condition: Condition, schema: pa.Schema) -> str:
    """Return the SQL of a condition on the columns of ``schema``.

    Raises:
        FilterError: it names a field or operator that does not exist, or a value of the wrong
            type.
    """
    fields = {name: schema.field(name).type for name in schema.names if name not in _HIDDEN}
    return _all_of(condition, fields, 0)


def as_sql(where: str | Condition | None, schema: pa.Schema) -> str | None:
    """Return SQL as it is given, and the SQL of a condition; ``None`` where everything is searched.

    Raises:
        FilterError: the condition cannot be understood.
    """
    if where is None or isinstance(where, str):
        return where or None
    return to_sql(where, schema)


def _all_of(condition: Any, fields: Mapping[str, pa.DataType], depth: int) -> str:
    if not isinstance(condition, Mapping) or not condition:
        raise FilterError(
            f"A condition is a mapping such as {{'collection': 'scifact'}}, not {_shown(condition)}."
        )
    if depth > _MOST_DEPTH:
        raise FilterError(f"The filter is nested deeper than {_MOST_DEPTH} levels. Write it flatter.")
    return " AND ".join(_entry(key, value, fields, depth) for key, value in condition.items())


def _entry(key: str, value: Any, fields: Mapping[str, pa.DataType], depth: int) -> str:
    if key in ("and", "or"):
        parts = [_all_of(part, fields, depth + 1) for part in _several(value, key, "conditions")]
        joined = f" {key.upper()} ".join(f"({part})" for part in parts)
        return f"({joined})"
    if key == "not":
        return f"(NOT ({_all_of(value, fields, depth + 1)}))"
    if key not in fields:
        raise FilterError(
            f"There is no field {_shown(key)} to filter by. The index has: {', '.join(fields)}."
        )
    tests = value if isinstance(value, Mapping) else {"eq": value}
    if not tests:
        raise FilterError(f"The condition on '{key}' is empty. Give a value, or operators: {_OPERATORS}.")
    sql = [_test(key, operator, operand, fields[key]) for operator, operand in tests.items()]
    return " AND ".join(sql)


def _several(value: Any, what: str, of: str) -> Sequence[Any]:
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    if not is_list or not 0 < len(value) <= _MOST_VALUES:
        raise FilterError(f"'{what}' needs a list of 1 to {_MOST_VALUES} {of}.")
    found: Sequence[Any] = value
    return found


def _test(field: str, operator: str, value: Any, kind: pa.DataType) -> str:
    column = f"`{field}`"
    if operator == "in":
        values = [_literal(field, item, kind) for item in _several(value, "in", f"values for '{field}'")]
        return f"{column} IN ({', '.join(values)})"
    if operator == "exists":
        if not isinstance(value, bool):
            raise FilterError(f"'exists' needs true or false for '{field}', not {_shown(value)}.")
        return _existence(column, value)
    if operator not in _COMPARISONS:
        raise FilterError(
            f"There is no operator {_shown(operator)} for '{field}'. Choose one of: {_OPERATORS}."
        )
    if value is None and operator in ("eq", "ne"):
        return _existence(column, operator == "ne")
    return f"{column} {_COMPARISONS[operator]} {_literal(field, value, kind)}"


def _existence(column: str, wanted: bool) -> str:
    return f"{column} IS NOT NULL" if wanted else f"{column} IS NULL"


def _literal(field: str, value: Any, kind: pa.DataType) -> str:
    if pa.types.is_boolean(kind) and isinstance(value, bool):
        return str(value).upper()
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    if pa.types.is_integer(kind) and numeric and abs(value) < 2**63 and value == int(value):
        return str(int(value))  # JSON does not tell 1990 from 1990.0
    if pa.types.is_floating(kind) and numeric and math.isfinite(value) and abs(value) < 1e300:
        return repr(float(value))
    if pa.types.is_string(kind) and isinstance(value, str) and "\0" not in value:
        return "'" + value.replace("'", "''") + "'"
    raise FilterError(f"The field '{field}' holds values of type {kind}, which {_shown(value)} is not.")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"
