"""The table of gains: a column for each expert, with spare columns so that it grows without being copied."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Gains = NDArray[np.float32]

_SPARE = 16  # columns of NaN behind the gains


def with_columns(gains: Gains, present: Sequence[str], wanted: Sequence[str]) -> Gains:
    """Return gains with exactly the wanted columns; new ones are NaN.

    Where columns are only added, memory is shared with ``gains`` if possible.

    Args:
        gains: measured gains (P, E).
        present: names of the columns of ``gains``.
        wanted: names of the columns to return.
    """
    if tuple(wanted[: len(present)]) == tuple(present):
        return widened(gains, len(wanted))
    place = {name: column for column, name in enumerate(present)}
    columns = [place.setdefault(name, len(place)) for name in wanted]
    return widened(gains, len(place)).take(columns, axis=1)


def only_adds(gains: Gains, other: Gains) -> bool:
    """Return whether these are the other gains, in the same memory, followed by columns of NaN."""
    return _layout(gains) == _layout(other) and bool(np.isnan(gains[:, other.shape[1] :]).all())


def widened(gains: Gains, columns: int) -> Gains:
    """Return gains (P, E) with columns of NaN after them: those that follow them in memory, or a copy's."""
    present = gains.shape[1]
    if columns == present:
        return gains
    # Nobody writes into a library's gains, so several libraries may share the columns behind theirs.
    whole = _whole(gains)
    if whole.shape[1] >= columns and np.isnan(whole[:, present:columns]).all():
        return whole[:, :columns]
    return copy_with_room(gains, columns)


def copy_with_room(gains: Gains, columns: int) -> Gains:
    """Return a copy of gains (P, E) with this many columns, the added ones NaN, and spare ones in memory."""
    whole = np.full((len(gains), columns + _SPARE), np.nan, np.float32)
    whole[:, : gains.shape[1]] = gains
    return whole[:, :columns]


def mean_by_group(
    gains: Gains, counts: NDArray[np.int64], groups: NDArray[np.int64]
) -> list[NDArray[np.float64]]:
    """Return the mean gain of every expert (E,) in each group, weighted by counts; NaN where nothing is measured."""
    bounds = np.cumsum(np.bincount(groups))[:-1]
    means = []
    for rows in np.split(np.argsort(groups, kind="stable"), bounds):
        own, weights = gains[rows], counts[rows].astype(np.float64)
        finite = np.isfinite(own)
        with np.errstate(invalid="ignore"):
            means.append((weights @ np.where(finite, own, 0.0)) / (weights @ finite))
    return means


def _whole(gains: Gains) -> Gains:
    """Return the array whose first columns the gains (P, E) are, or the gains themselves."""
    whole = gains.base
    if not isinstance(whole, np.ndarray) or whole.shape[:1] != gains.shape[:1]:
        return gains
    return whole if _layout(whole) == _layout(gains) else gains


def _layout(gains: Gains) -> tuple[int, tuple[int, ...]]:
    """Return where an array begins in memory, and how far apart its rows and columns are."""
    return gains.ctypes.data, gains.strides
