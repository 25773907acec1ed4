"""Scores of the held-out queries that a training is judged by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class HeldOutScores:
    """nDCG@10 of every held-out query, one array for each collection."""

    by_collection: tuple[Values, ...]

    @property
    def mean(self) -> float:
        """The mean over collections of the means over their queries."""
        return float(np.mean([values.mean() for values in self.by_collection]))

    @property
    def joined(self) -> Values:
        """The values of all queries, collection after collection."""
        return np.concatenate(self.by_collection)
