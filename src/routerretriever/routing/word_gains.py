"""What words add to a search by vectors, measured at pilots, and the weight that follows for a query."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from routerretriever.words.weights import WEIGHTS

BESIDE_BASE, BESIDE_EXPERT = 0, 1
_CURVES = 2

PRIOR_QUERIES = 100
"""The curve of a collection is shrunk as if so many queries of other collections were added to its own."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class WordGains:
    """What each weight of the words gains at each pilot.

    Attributes:
        values: nDCG@10 with words minus that of the same vectors alone (P, 2, W): beside the base, and
            beside the expert of the pilot's collection; one column for each of
            :data:`routerretriever.words.weights.WEIGHTS`. NaN where not measured.
        experts: collection → the expert beside which words were measured there: the one with the
            highest mean gain.
    """

    values: NDArray[np.float32]
    experts: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def unmeasured(cls, pilots: int) -> Self:
        """Return the gains of pilots at which nothing was measured."""
        return cls(values=np.full((pilots, _CURVES, len(WEIGHTS)), np.nan, np.float32))

    def only(self, kept: NDArray[np.bool_]) -> Self:
        """Return those of some pilots."""
        return replace(self, values=self.values[kept])

    def extended(self, other: WordGains) -> Self:
        """Return these with another's pilots at the end."""
        values = np.concatenate([self.values, other.values])
        return replace(self, values=values, experts={**self.experts, **other.experts})

    def renamed(self, old: str, new: str) -> Self:
        """Return the same with another name for an expert."""
        names = {}
        for collection, expert in self.experts.items():
            names[collection] = new if expert == old else expert
        return replace(self, experts=names)

    def among(self, experts: tuple[str, ...]) -> Self:
        """Return the same, without what was measured beside experts that are not among these."""
        kept = {collection: name for collection, name in self.experts.items() if name in experts}
        return replace(self, experts=kept)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class WordCurves:
    """Mean gain of every weight in each collection, shrunk towards that of all collections.

    Attributes:
        values: (C, 2, 1 + W); the first column is the weight 1, which gains 0.
        measured: whether anything was measured there (C, 2).
        experts: the expert of the second curve of each collection (C,), as a column of the experts;
            -1 without one.
    """

    values: NDArray[np.float64]
    measured: NDArray[np.bool_]
    experts: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        gains: WordGains,
        counts: NDArray[np.int64],
        groups: NDArray[np.int64],
        names: tuple[str, ...],
        experts: tuple[str, ...],
    ) -> Self:
        """Summarise the pilots of each collection.

        Args:
            gains: at the pilots (P, 2, W).
            counts: queries behind each pilot (P,).
            groups: row of each pilot's collection among ``names`` (P,).
            names: of the collections.
            experts: of the library, in the order of its columns.
        """
        present = np.isfinite(gains.values).all(axis=2)  # (P, 2)
        weights = np.where(present, counts[:, None], 0).astype(np.float64)
        totals = np.zeros((len(names), _CURVES))
        sums = np.zeros((len(names), *gains.values.shape[1:]))
        np.add.at(totals, groups, weights)
        np.add.at(sums, groups, weights[:, :, None] * np.nan_to_num(gains.values))

        prior = _prior(sums, totals)
        shrunk = (sums + PRIOR_QUERIES * prior) / (totals + PRIOR_QUERIES)[:, :, None]
        columns = [experts.index(name) if name in experts else -1 for name in map(gains.experts.get, names)]
        return cls(
            values=np.concatenate([np.zeros((len(names), _CURVES, 1)), shrunk], axis=2),
            measured=totals > 0,
            experts=np.array(columns, np.int64),
        )


def _prior(sums: NDArray[np.float64], totals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean curve of the collections (2, W); each counts the same."""
    known = totals > 0
    means = np.divide(sums, totals[:, :, None], out=np.zeros_like(sums), where=known[:, :, None])
    prior: NDArray[np.float64] = means.sum(axis=0) / np.maximum(known.sum(axis=0), 1)[:, None]
    return prior
