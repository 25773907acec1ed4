"""Plan the search of each query: the weight of its words, and what its hits are worth."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from routerretriever.routing.pilot_library import FEEDBACK, PilotLibrary
from routerretriever.routing.relevance import Relevance
from routerretriever.routing.search_plan import SearchPlan
from routerretriever.routing.word_gains import BESIDE_BASE, BESIDE_EXPERT, TRIED, WordCurves
from routerretriever.words.weights import DEFAULT_WEIGHT

_BASE_COLUMN, _FIRST_EXPERT = 0, 2
_FEEDBACK_WEIGHT = 1e-9
"""Of pilots of feedback in the choice of a collection: less than any other pilot."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Planner:
    """What the pilots of a library say of words and of hits.

    Attributes:
        library: the pilots.
        curves: mean gain of each weight of the words in each collection.
        groups: row of each pilot's collection among ``names`` (P,).
        names: of the collections and groups of feedback.
    """

    library: PilotLibrary
    curves: WordCurves | None
    groups: NDArray[np.int64]
    names: tuple[str, ...]
    _plans: dict[tuple[int, int], SearchPlan] = field(default_factory=dict, init=False)

    @classmethod
    def of(cls, library: PilotLibrary) -> Self:
        """Summarise a library."""
        return cls._with(library, library.group_numbers(), library.groups())

    def over(self, library: PilotLibrary) -> Planner:
        """Return that of another library; where the pilots are the same, only the gains are summarised again."""
        if library.sources is not self.library.sources:
            return Planner.of(library)
        return self._with(library, self.groups, self.names)

    @classmethod
    def _with(cls, library: PilotLibrary, groups: NDArray[np.int64], names: tuple[str, ...]) -> Self:
        curves = None
        if library.words is not None:
            curves = WordCurves.of(library.words, library.counts, groups, names, library.experts)
        return cls(library=library, curves=curves, groups=groups, names=names)

    def nearest_groups(self, pilots: NDArray[np.int64], weights: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return the collection that most of each query's neighbourhood comes from (n,), a row of ``names``.

        Words were not measured at pilots of feedback, so these decide only where there are no others.

        Args:
            pilots: the nearest pilots of every query (n, k).
            weights: theirs; rows sum to 1 (n, k).
        """
        shares = np.zeros((len(pilots), len(self.names)))
        rows = np.arange(len(pilots))[:, None]
        np.add.at(shares, (rows, self.groups[pilots]), weights)
        shares[:, [name.startswith(FEEDBACK) for name in self.names]] *= _FEEDBACK_WEIGHT
        nearest: NDArray[np.int64] = shares.argmax(axis=1)
        return nearest

    def plans(
        self, groups: NDArray[np.int64], columns: NDArray[np.int64], in_domain: NDArray[np.bool_]
    ) -> tuple[SearchPlan, ...]:
        """Return the plan of every query: that of the collection that most of its neighbours come from.

        Args:
            groups: see :meth:`nearest_groups` (n,).
            columns: the candidate that encodes each: 0 is the base, 1 merged, then the experts (n,).
            in_domain: whether each query resembles the pilots (n,).
        """
        plans = []
        for group, column, known in zip(groups.tolist(), columns.tolist(), in_domain, strict=True):
            if known:
                plans.append(self._plan(group, column))
            else:
                plans.append(self._default("default for queries out of domain", neighbours=True))
        return tuple(plans)

    def _plan(self, group: int, column: int) -> SearchPlan:
        key = (group, column)
        if key not in self._plans:
            self._plans[key] = self._in_domain(group, column)
        return self._plans[key]

    def _in_domain(self, group: int, column: int) -> SearchPlan:
        beside = BESIDE_BASE if column == _BASE_COLUMN else BESIDE_EXPERT
        if not self._is_measured(group, column, beside):
            return self._default("default, since words were not measured beside this candidate here")
        assert self.curves is not None

        chosen, collection = int(self.curves.chosen[group, beside]), self.names[group]
        gain = 100 * self.curves.values[group, beside, chosen]
        weight = TRIED[chosen]
        reason = f"words gain {gain:+.1f} nDCG@10 points on held-out queries of '{collection}'"
        if weight == 1.0:
            reason = f"words gain nothing on held-out queries of '{collection}'"
        elif weight == DEFAULT_WEIGHT:
            reason = f"default, since no other is clearly better on held-out queries of '{collection}'"
        return SearchPlan(
            vector_weight=weight,
            reason=reason,
            relevance=self._relevance(collection, beside),
        )

    def _is_measured(self, group: int, column: int, beside: int) -> bool:
        if self.curves is None or not self.curves.measured[group, beside]:
            return False
        if beside == BESIDE_BASE:
            return True
        return column >= _FIRST_EXPERT and bool(self.curves.experts[group] == column - _FIRST_EXPERT)

    def _default(self, reason: str, *, neighbours: bool = False) -> SearchPlan:
        table = self.library.relevance
        relevance = None if table is None else table.pooled
        return SearchPlan(
            vector_weight=DEFAULT_WEIGHT, reason=reason, neighbours=neighbours, relevance=relevance
        )

    def _relevance(self, collection: str, beside: int) -> Relevance | None:
        table = self.library.relevance
        return None if table is None else table.of(collection, beside)
