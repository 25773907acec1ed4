"""Held-out queries of a training: which of them choose the expert, and which measure it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from routerretriever.data.splits import is_measured_on
from routerretriever.data.text import text_key
from routerretriever.errors import CollectionError
from routerretriever.lora.expert_info import Selection
from routerretriever.routing.folds import contiguous_folds

Values = NDArray[np.float64]
Rows = tuple[NDArray[np.bool_], ...]
"""Whether each held-out query is meant, one array for each collection."""

FEW_HELD_OUT = 200
"""Below this number of held-out queries in any collection, the choice is cross-fitted.

The gain of one query has a standard deviation of about 0.3. Fewer than a hundred
queries in each half would hide gains of six points and less, and would choose by noise;
folds use every query for both. From
a hundred on, the plain division is as good, and its queries have nothing to do with the
choice."""

_FOLDS = 5


@dataclass(frozen=True, slots=True, eq=False)
class HeldOutScores:
    """nDCG@10 of every held-out query, one array for each collection."""

    by_collection: tuple[Values, ...]

    def mean(self, rows: Rows) -> float:
        """Return the mean over collections of the means over some of their queries."""
        means = []
        for values, chosen in zip(self.by_collection, rows, strict=True):
            if chosen.any():
                means.append(values[chosen].mean())
        return float(np.mean(means))

    def joined(self, rows: Rows) -> Values:
        """Return the values of some queries, collection after collection."""
        parts = zip(self.by_collection, rows, strict=True)
        return np.concatenate([values[chosen] for values, chosen in parts])


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class HeldOutPart:
    """One choice among the states of a training.

    Attributes:
        selects: queries that stop the training and choose the state and the adapter
            weight.
        measures: queries on which the chosen adapter is measured; none of them selects.
    """

    selects: Rows
    measures: Rows


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class HeldOutPlan:
    """How the held-out queries are used.

    Attributes:
        rule: ``split`` or ``cross-fit``.
        parts: the choices; the first is the one whose adapter becomes the expert.
    """

    rule: Selection
    parts: tuple[HeldOutPart, ...]

    @property
    def measures(self) -> Rows:
        """The queries that the published gain is measured on."""
        by_part = zip(*(part.measures for part in self.parts), strict=True)
        return tuple(np.logical_or.reduce(masks) for masks in by_part)

    @classmethod
    def of(cls, queries: Sequence[Sequence[str]]) -> HeldOutPlan:
        """Return how the held-out queries of each collection are used.

        Many are divided by a hash. Of few, all choose the expert; its gain is measured
        in folds, each with the adapter that the queries of the other folds choose in
        the same training.

        Args:
            queries: the key of each query, or its text; see
                :func:`routerretriever.data.splits.division_keys`.

        Raises:
            CollectionError: there are no two different keys.
        """
        if min(map(len, queries)) >= FEW_HELD_OUT:
            masks = [np.array([is_measured_on(key) for key in keys], bool) for keys in queries]
            part = HeldOutPart(selects=tuple(~mask for mask in masks), measures=tuple(masks))
            return cls(rule=Selection.SPLIT, parts=(part,))
        return cls(rule=Selection.CROSS_FIT, parts=_cross_fitted(queries))


def _cross_fitted(queries: Sequence[Sequence[str]]) -> tuple[HeldOutPart, ...]:
    sizes = [len(texts) for texts in queries]
    starts = np.cumsum([0, *sizes]).tolist()
    groups = np.repeat(np.arange(len(sizes)), sizes)
    keys = [text_key(text) for texts in queries for text in texts]

    def rows_of(mask: NDArray[np.bool_]) -> Rows:
        return tuple(mask[start:end] for start, end in pairwise(starts))

    everything = np.ones(len(keys), bool)
    parts = [HeldOutPart(selects=rows_of(everything), measures=rows_of(~everything))]
    for fold in contiguous_folds(groups, _FOLDS, copies=keys):
        if fold.any() and not fold.all():
            parts.append(HeldOutPart(selects=rows_of(~fold), measures=rows_of(fold)))
    if len(parts) < 2:
        raise CollectionError(
            "All held-out queries are copies of one, or were generated from one document, so none is left to "
            "measure the expert on. Give some hundred different queries."
        )
    return tuple(parts)
