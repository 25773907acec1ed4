"""Metadata fields: which names and values an index can hold, and the types of their columns."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import pyarrow as pa

from routerretriever.data.document import Document
from routerretriever.index.schema import OWN_COLUMNS

LONGEST_NAME = 255
"""Characters of a field's name."""

_LOGICAL_WORDS = ("and", "or", "not")
_UNUSABLE_SIGNS = (".", "`")


def is_missing(value: Any) -> bool:
    """Return whether a value stands for none: null, or a number that is not a number."""
    return value is None or (isinstance(value, float) and math.isnan(value))


@lru_cache(maxsize=1024)
def name_fault(name: str) -> str | None:
    """Return why no column can have this name; ``None`` if one can."""
    if not name:
        return "a field has an empty name. Give it one."
    if name in OWN_COLUMNS:
        return f"the index needs the name of the field '{name}' itself. Rename the field."
    if name.startswith("_"):
        return (
            f"the field '{name}' begins with '_', as the names do that the search engine keeps "
            "for itself. Rename the field."
        )
    if len(name) > LONGEST_NAME:
        return f"the name of the field '{name[:40]}…' has more than {LONGEST_NAME} characters. Shorten it."
    if name in _LOGICAL_WORDS:
        return f"the field '{name}' has the name of an operator of filters. Rename the field."
    if any(sign in name for sign in _UNUSABLE_SIGNS) or not name.isprintable():
        return (
            f"the name of the field {name!r} holds a dot, a backtick or a control character, "
            "which no column can have. Rename the field."
        )
    return None


def value_type(value: Any) -> pa.DataType | None:
    """Return the column type of a metadata value; ``None`` for a value no column can hold."""
    if isinstance(value, bool):
        return pa.bool_()
    if isinstance(value, int):
        return pa.int64()
    if isinstance(value, float):
        return pa.float64()
    return pa.string() if isinstance(value, str) else None


def new_fields(documents: Iterable[Document], present: Mapping[str, pa.DataType]) -> dict[str, pa.DataType]:
    """Return the columns that documents need beside those that are present.

    The first value of a field decides its type; int and float together make float. Fields
    with names or values that cannot be stored are not among them: they are for
    :class:`~routerretriever.index.check.DocumentCheck` to refuse.
    """
    fields: dict[str, pa.DataType] = {}
    for document in documents:
        for name, value in document.metadata.items():
            found = None if is_missing(value) else value_type(value)
            if found is None or name in present or name_fault(name) is not None:
                continue
            fields[name] = _wider(fields.get(name), found)
    return fields


def _wider(known: pa.DataType | None, found: pa.DataType) -> pa.DataType:
    if known is None:
        return found
    numbers = (pa.int64(), pa.float64())
    return pa.float64() if known in numbers and found in numbers and known != found else known


def fits(value: Any, column: pa.DataType) -> bool:
    """Return whether a column of this type holds the value without changing it."""
    if is_missing(value):
        return True
    found = value_type(value)
    if pa.types.is_floating(column):
        return isinstance(value, float) or (found == pa.int64() and int(float(value)) == value)
    return found is not None and bool(found == column)
