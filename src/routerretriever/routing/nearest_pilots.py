"""Similarities of queries to pilots, computed only when they are needed.

Every query is compared with every pilot: the only work that grows with the number of pilots.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from routerretriever.kernels.rounded_vectors import RoundedVectors
from routerretriever.kernels.threads import by_all_cores
from routerretriever.kernels.vectors import Vectors

_DEPTH = 40
"""Columns of a stripe in :func:`_likely`."""
_FEW = 16
"""Queries for which a first look in 8 bits saves time: with more, products in fp32 read the pilots once for all."""
_WORTH = 50
"""Pilots for each one wanted, from which on a first look saves time."""


@dataclass(frozen=True, slots=True, eq=False)
class Nearest:
    """The k nearest pilots of every query, nearest first: cosine similarities and rows, both (n, k)."""

    values: Vectors
    indices: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PilotVectors:
    """Unit vectors of pilots (P, d), one after another in memory."""

    exact: Vectors

    def __len__(self) -> int:
        return len(self.exact)

    @cached_property
    def rounded(self) -> RoundedVectors:
        """The same in 8 bits."""
        return RoundedVectors.of(self.exact)


@dataclass(slots=True, eq=False)
class Similarities:
    """Cosine similarities of queries (n, d), unit vectors, to pilots."""

    queries: Vectors
    pilots: PilotVectors
    _nearest: dict[int, Nearest] = field(default_factory=dict)

    def all(self) -> Vectors:
        """Return the similarity to every pilot (n, P)."""
        return by_all_cores(self.queries, self.pilots.exact.T)

    def nearest(self, k: int) -> Nearest:
        """Return the k nearest pilots, or all if there are fewer; the answer is kept."""
        k = min(k, len(self.pilots))
        if k not in self._nearest:
            is_small = 0 < len(self.queries) <= _FEW and 0 < k * _WORTH < len(self.pilots)
            self._nearest[k] = self._of_likely(k) if is_small else largest(self.all(), k)
        return self._nearest[k]

    def _of_likely(self, k: int) -> Nearest:
        """Return the same, comparing exactly only those pilots that may be among them by their 8 bits.

        Products with few queries take as long as the pilots are read from memory.
        """
        rough, bounds = self.pilots.rounded.products(self.queries)
        # At least k pilots are as similar as this, and whatever is further away than both errors is none of them.
        least = largest(rough, k).values[:, -1] - 2 * bounds
        values = np.empty((len(rough), k), np.float32)
        indices = np.empty((len(rough), k), np.int64)
        for row, query in enumerate(self.queries):
            likely = np.flatnonzero(rough[row] >= least[row])
            found = largest((self.pilots.exact[likely] @ query)[None], k)
            values[row], indices[row] = found.values[0], likely[found.indices[0]]
        return Nearest(values, indices)


def largest(values: Vectors, k: int) -> Nearest:
    """Return the k largest of each row (n, P), largest first, and their columns; of equal ones any."""
    columns = _likely(values, k)
    if columns is None:
        found = _partition(values, k)
    else:
        found = np.take_along_axis(columns, _partition(np.take_along_axis(values, columns, 1), k), 1)
    best = np.take_along_axis(values, found, 1)
    order = np.argsort(-best, axis=1, kind="stable")
    return Nearest(np.take_along_axis(best, order, 1), np.take_along_axis(found, order, 1))


def _likely(values: Vectors, k: int) -> NDArray[np.int64] | None:
    """Return columns (n, m) that hold the k largest of each row (n, P), or ``None`` if that saves nothing.

    The columns are dealt into stripes. None of the k largest can be in a stripe whose maximum is not among
    the k largest maxima.
    """
    n, count = values.shape
    stripes = count // _DEPTH
    if stripes < 4 * k:
        return None
    whole = stripes * _DEPTH
    maxima = values.T[:whole].reshape(_DEPTH, stripes, n).max(axis=0).T
    near = _partition(maxima, k)[:, :, None] + stripes * np.arange(_DEPTH)
    rest = np.broadcast_to(np.arange(whole, count), (n, count - whole))
    return np.concatenate([near.reshape(n, k * _DEPTH), rest], axis=1)


def _partition(values: Vectors, k: int) -> NDArray[np.int64]:
    """Return the columns of the k largest of each row (n, k), in no order."""
    if k == 0:  # numpy refuses to divide behind the last column
        return np.empty((len(values), 0), np.int64)
    start = values.shape[1] - k
    columns: NDArray[np.int64] = np.argpartition(values, start, axis=1)[:, start:]
    return columns
