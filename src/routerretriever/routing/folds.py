"""Leave queries out: the one way in which anything is cross-validated over pilots or queries.

Folds are contiguous blocks inside each group, because paraphrases tend to follow one another and
would vouch for each other if they were split between folds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def contiguous_folds(
    groups: Sequence[str] | NDArray[np.int64], n_folds: int, copies: Sequence[str] | None = None
) -> Iterator[Mask]:
    """Yield the rows of each fold (n,): the same fraction of every group, as one block.

    Args:
        groups: the collection that each row comes from (n,).
        n_folds: number of folds. A group with fewer rows is missing from some of them.
        copies: a key of each row (n,); rows with the same key are in the fold of the first.
    """
    numbers = group_numbers(groups)
    fold = np.empty(len(numbers), np.int64)
    for group in np.unique(numbers):
        rows = np.flatnonzero(numbers == group)
        fold[rows] = np.arange(len(rows)) * n_folds // len(rows)
    if copies is not None:
        first: dict[str, int] = {}
        for row, key in enumerate(copies):
            fold[row] = fold[first.setdefault(key, row)]
    for number in range(n_folds):
        yield fold == number


def leave_one_group_out(groups: Sequence[str] | NDArray[np.int64]) -> Iterator[Mask]:
    """Yield the rows of each group (n,), in the order of the groups' names or numbers."""
    numbers = group_numbers(groups)
    for group in np.unique(numbers):
        yield numbers == group


def group_numbers(groups: Sequence[str] | NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the place of each row's group among the sorted groups (n,)."""
    return np.unique(np.asarray(groups), return_inverse=True)[1]
