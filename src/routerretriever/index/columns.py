"""Adding columns for metadata fields to an index."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

import lance
import pyarrow as pa

from routerretriever.index.conflicts import retrying_conflicts


def add_missing_columns(dataset: str, fields: Mapping[str, pa.DataType]) -> list[str]:
    """Add those columns that are missing; another process may add the same meanwhile.

    Returns:
        The names that this call added.

    Raises:
        OSError, RuntimeError: the index cannot be written.
    """

    def add() -> list[str]:
        newest = lance.dataset(dataset)
        missing = [field for field in fields.items() if field[0] not in newest.schema.names]
        if missing:
            newest.add_columns(pa.schema(missing))
        return [name for name, _ in missing]

    return retrying_conflicts(add)


def drop_added_columns(dataset: str, names: list[str]) -> None:
    """Drop columns that a write added before it failed, where no document uses them.

    A disk that is too full for the write may be too full for this as well.
    """
    with suppress(OSError, RuntimeError, ValueError):
        newest = lance.dataset(dataset)
        in_use = " OR ".join(f"`{name}` IS NOT NULL" for name in names)
        if names and newest.count_rows(in_use) == 0:
            newest.drop_columns(names)
