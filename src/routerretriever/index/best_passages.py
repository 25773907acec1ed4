"""Rank documents by their best passage."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from routerretriever.index.view import RowIds, View
from routerretriever.passages.grouping import Grouping

Found = tuple[RowIds, NDArray[Any]]
"""Rows, best first, and their scores."""


def best_rows(view: View, found: Found) -> Found:
    """Return the best row of every document, best first."""
    rows, scores = found
    best = np.sort(Grouping(view.documents(rows)).best(scores))
    return rows[best], scores[best]


def first_of_each(table: pa.Table) -> pa.Table:
    """Return the first row of each key of a table, in their order."""
    keys = table["key"].combine_chunks().dictionary_encode().indices.to_numpy()
    _, first = np.unique(keys, return_index=True)
    return table.take(pa.array(np.sort(first)))
