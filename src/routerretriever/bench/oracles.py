"""Systems that see the test judgements, which no router may; they bound the others."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np

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
        values = np.stack([queries.candidates[name].ndcg for name in self.names])
        return one_hot(self.names, values.argmax(axis=0))


class ControlledInstanceOracle(Oracle):
    """As InstanceOracle, but it chooses by experts trained with other seeds, so that chance does not help it."""

    def judged_weights(self, queries: QuerySet, others: Sequence[QuerySet]) -> Weights:
        values = [np.stack([other.candidates[name].ndcg for name in self.names]) for other in others]
        return one_hot(self.names, np.mean(values, axis=0).argmax(axis=0))
