"""Systems that see the test judgements, which no router may; they bound the others."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from routerretriever.bench.query_set import Queries, QuerySet
from routerretriever.bench.systems import Known, System, Weights, constant, one_hot
from routerretriever.routing.candidates import BASE


class Oracle(System):
    """Sees the judgements of the very queries it chooses for."""

    is_oracle = True

    def fit(self, known: Known) -> None:
        self.names = (BASE, *known.experts)

    def weights(self, queries: Queries) -> Weights:
        raise NotImplementedError("an oracle needs the judged queries")

    @abstractmethod
    def judged_weights(self, queries: QuerySet, others: Sequence[QuerySet]) -> Weights:
        """Return weights from test values; ``others`` are the same queries under other seeds' experts."""


class DatasetOracle(Oracle):
    """Base or the one expert that is best on the collection (the paper's Best Individual)."""

    def judged_weights(self, queries: QuerySet, others: Sequence[QuerySet]) -> Weights:
        best = max(self.names, key=lambda name: queries.candidates[name].ndcg.mean())
        return constant(best, len(queries.queries))


class InstanceOracle(Oracle):
    """The best candidate for every query (the paper's Oracle). Partly selection noise."""

    def judged_weights(self, queries: QuerySet, others: Sequence[QuerySet]) -> Weights:
        return one_hot(self.names, _ndcg(queries, self.names).argmax(axis=0))


class ControlledInstanceOracle(Oracle):
    """As InstanceOracle, but it chooses by experts trained with other seeds, so that chance does not help it."""

    def judged_weights(self, queries: QuerySet, others: Sequence[QuerySet]) -> Weights:
        values = [_ndcg(other, self.names) for other in others]
        return one_hot(self.names, np.mean(values, axis=0).argmax(axis=0))


def _ndcg(queries: QuerySet, names: Sequence[str]) -> NDArray[np.float64]:
    """Return nDCG@10 of each candidate for each query, a row for each candidate."""
    return np.stack([queries.candidates[name].ndcg for name in names])
