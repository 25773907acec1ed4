"""Weights of the candidates for each row of a batch, and which rows can be treated alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

BASE_COLUMN, MERGED_COLUMN = 0, 1
FIRST_EXPERT = 2
SHARED = -1
"""Stands for rows in which several experts, or a part of one, take part."""


def without_experts(weights: NDArray[np.float32], left_out: Sequence[bool]) -> NDArray[np.float32]:
    """Return weights (n, 2 + E) in which the base has those of some experts: they change nothing here.

    Args:
        weights: of each candidate for each row (n, 2 + E).
        left_out: one for each expert.
    """
    if not any(left_out):
        return weights
    columns = FIRST_EXPERT + np.flatnonzero(left_out)
    kept = weights.copy()
    kept[:, BASE_COLUMN] += kept[:, columns].sum(axis=1)
    kept[:, columns] = 0.0
    if all(left_out):
        kept[:, BASE_COLUMN] += kept[:, MERGED_COLUMN]
        kept[:, MERGED_COLUMN] = 0.0
    return kept


def leading_columns(weights: NDArray[Any]) -> NDArray[Any]:
    """Return the column that has a row (n, 2 + E) to itself, else :data:`SHARED`."""
    no_expert = ~(weights[:, FIRST_EXPERT:] > 0).any(axis=1)
    whole = np.where(weights.max(axis=1) >= 1.0, weights.argmax(axis=1), SHARED)
    return np.where(no_expert, weights[:, MERGED_COLUMN] > 0, whole)
