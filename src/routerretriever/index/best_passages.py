"""Rank documents by their best passage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from routerretriever.index.view import RowIds, View

Found = tuple[RowIds, NDArray[Any]]
"""Rows, best first, and their scores."""

WIDER = 4
"""How many times as many rows are read where those found belong to too few documents."""


@dataclass(frozen=True, slots=True)
class Grouping:
    """Which rows belong to the same document.

    Attributes:
        document: number of each row's document (n,), in the order in which they first occur.
    """

    document: NDArray[np.intp]

    @property
    def count(self) -> int:
        """Number of documents."""
        return self.documents_in(len(self.document))

    def documents_in(self, rows: int) -> int:
        """Return how many documents the first rows belong to."""
        return int(self.document[:rows].max(initial=-1)) + 1

    def best(self, scores: NDArray[Any]) -> NDArray[np.intp]:
        """Return the place of each document's best row (m,); the first where several are as good."""
        order = np.lexsort((np.arange(len(scores)), -scores, self.document))
        firsts = np.searchsorted(self.document[order], np.arange(self.count))
        best: NDArray[np.intp] = order[firsts]
        return best


def widened(view: View, find: Callable[[int], Found], wanted: int) -> Found:
    """Return rows of at least so many documents, or all that there are.

    Args:
        view: the documents that may be found.
        find: returns the best rows, at least as many as asked for if there are.
        wanted: documents.
    """
    pool = wanted
    while True:
        rows, scores = find(pool)
        if len(rows) < pool or Grouping(view.documents(rows)).count >= wanted:
            return rows, scores
        pool *= WIDER


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
