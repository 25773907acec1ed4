"""Rows of an index by their ids. The one place that uses a private interface of Lance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from routerretriever.index.view import RowIds


def rows_by_id(dataset: Any, rows: RowIds, columns: Sequence[str]) -> pa.Table:
    """Return columns of some rows, in the order of the rows.

    Lance's public ways are a filter by ``_rowid``, which takes twice as long, and positions, which
    a search does not give.
    """
    table: pa.Table = dataset._take_rows(rows.tolist(), columns=list(columns))
    return table
