"""Which of several rows belong to the same document, so that documents are ranked by their best passage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from routerretriever.words.fuse import Scores, best_first

WIDER = 4
"""How many times as many rows are read where those found belong to too few documents."""

_Rows = TypeVar("_Rows", bound=NDArray[Any])
_Scores = TypeVar("_Scores", bound=NDArray[Any])


@dataclass(frozen=True, slots=True)
class Grouping:
    """Which rows belong to the same document.

    Attributes:
        document: number of each row's document (n,), in the order in which they first
            occur.
    """

    document: NDArray[np.intp]

    @classmethod
    def of(cls, keys: NDArray[Any]) -> Self:
        """Group rows by the key of each row's document (n,)."""
        _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        number = np.empty(len(first), np.intp)
        number[np.argsort(first)] = np.arange(len(first))
        return cls(number[inverse])

    @property
    def count(self) -> int:
        """Number of documents."""
        return self.documents_in(len(self.document))

    def documents_in(self, rows: int) -> int:
        """Return how many documents the first rows belong to."""
        return int(self.document[:rows].max(initial=-1)) + 1

    def best(self, scores: Scores) -> NDArray[np.intp]:
        """Return the place of each document's best row (m,); the first where several are as good."""
        order = np.lexsort((np.arange(len(scores)), -scores, self.document))
        firsts = np.searchsorted(self.document[order], np.arange(self.count))
        best: NDArray[np.intp] = order[firsts]
        return best


def widened(
    find: Callable[[int], tuple[_Rows, _Scores]], grouped: Callable[[_Rows], Grouping], wanted: int
) -> tuple[_Rows, _Scores]:
    """Return rows of at least so many documents, or all that there are, and their scores.

    Args:
        find: returns the best rows, at least as many as asked for if there are.
        grouped: says which rows belong to the same document.
        wanted: documents.
    """
    pool = wanted
    while True:
        rows, scores = find(pool)
        if len(rows) < pool or grouped(rows).count >= wanted:
            return rows, scores
        pool *= WIDER


def candidates(similarities: Scores, word_scores: Scores, count: int, depth: int) -> NDArray[np.bool_]:
    """Return which documents are candidates of a search: the nearest, and all that words found.

    Args:
        similarities: of query and documents (m,), those first that were found by their
            vectors.
        word_scores: BM25 scores of the documents (m,); 0 where no word matches.
        count: how many documents were found by their vectors, which may be more than
            wanted.
        depth: how many of these are wanted.
    """
    kept: NDArray[np.bool_] = np.asarray(word_scores) > 0
    kept[best_first(similarities[:count], depth)] = True
    return kept
