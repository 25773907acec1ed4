"""Systems that are compared, each as its source defines it.

A system is fitted on held-out train and dev queries (:class:`Known`) and then weighs the candidates for
queries of which it sees text and route embedding only. A single weight of 1 is a choice. Other weights of
the product's own policies are weights of the experts' LoRA deltas, applied in one forward pass; those of
the rest mix the candidates' vectors, which takes a pass for each candidate.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from routerretriever.bench.query_set import FALLBACK, Candidate, Queries, QuerySet
from routerretriever.experts.training_config import TrainedKinds
from routerretriever.kernels.vectors import Vectors
from routerretriever.routing.candidates import BASE, MERGED
from routerretriever.routing.form_pilots import (
    PILOTS_PER_COLLECTION,
    TRAINING_PILOTS,
    Measurement,
    extend_library,
)
from routerretriever.routing.pilot_library import PilotLibrary
from routerretriever.routing.policy import FALLBACK_WEIGHT, Decision, RoutingPolicy
from routerretriever.routing.routers import make_router

Weights = dict[str, NDArray[np.float64]]
"""Candidate → its weight for every query (n,)."""

MULTI_TASK, BM25 = "multi-task", "bm25"


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """What a router is fitted on: held-out queries of every collection with an expert.

    Attributes:
        experts: their names; expert and collection of one name belong together.
        measurements: queries, route embeddings and measured gains, a collection each.
        generalist: the same with the multi-task expert as a last column; empty where there is none.
        train_sample: collection → route embeddings of 100 of its training queries.
        pilots: at most this many measured ones a collection.
        training_pilots: at most this many training queries a collection.
    """

    experts: tuple[str, ...]
    measurements: tuple[Measurement, ...]
    generalist: tuple[Measurement, ...]
    train_sample: Mapping[str, Vectors]
    pilots: int = PILOTS_PER_COLLECTION
    training_pilots: int = TRAINING_PILOTS
    _libraries: dict[tuple[str, bool], PilotLibrary] = field(default_factory=dict, init=False)

    @property
    def embeddings(self) -> Vectors:
        """Route embeddings of all held-out queries (n, d)."""
        return np.concatenate([measured.embeddings for measured in self.measurements])

    @property
    def gains(self) -> NDArray[np.float32]:
        """Their measured gains (n, E)."""
        return np.concatenate([measured.gains for measured in self.measurements])

    def library(self, partition: str = "cluster", *, generalist: bool = False) -> PilotLibrary:
        """Return the pilot library of these measurements; it is fitted once, because that takes time."""
        if (partition, generalist) not in self._libraries:
            self._libraries[partition, generalist] = self._built(partition, generalist)
        return self._libraries[partition, generalist]

    def _built(self, partition: str, generalist: bool) -> PilotLibrary:
        experts, measurements = self.experts, self.measurements
        if generalist:
            experts, measurements = (*self.experts, MULTI_TASK), self.generalist
        empty = PilotLibrary.empty(measurements[0].embeddings.shape[1], experts)
        limits = {"pilots_per_collection": self.pilots, "training_pilots": self.training_pilots}
        return extend_library(empty, measurements, partition=partition, **limits)


class System(ABC):
    """One row of the table."""

    is_oracle = False
    needs: tuple[str, ...] = ()
    """Candidates besides base, merged and the experts."""
    blends_deltas = False
    """Whether weights are of LoRA deltas within one pass, or of vectors."""
    kind: TrainedKinds | None = None
    """The kind of the experts; ``None`` is the suite's."""

    def fit(self, known: Known) -> None:  # noqa: B027 - most systems have nothing to learn
        """Learn from held-out queries."""

    @abstractmethod
    def weights(self, queries: Queries) -> Weights:
        """Return the weight of each candidate for each query."""

    def decision(self, queries: Queries) -> Decision | None:
        """Predicted gains and in-domain scores, where the system has any."""
        return None

    def finish(self, queries: QuerySet, outcome: Candidate) -> Candidate:
        """Return the final ranking; systems outside dense retrieval change it."""
        return outcome


def constant(name: str, n: int) -> Weights:
    """Send all queries to one candidate."""
    return {name: np.ones(n)}


def one_hot(names: Sequence[str], columns: NDArray[np.int64]) -> Weights:
    """Send each query to the candidate of its column."""
    return {name: (columns == number).astype(float) for number, name in enumerate(names)}


class Always(System):
    """One candidate for all queries: the base, the merged expert, a single expert, a multi-task adapter."""

    def __init__(self, candidate: str) -> None:
        self.candidate = candidate
        self.needs = () if candidate in (BASE, MERGED, FALLBACK) else (candidate,)

    def weights(self, queries: Queries) -> Weights:
        return constant(self.candidate, len(queries))


class UniformMean(System):
    """The uniform mean of the base's and all experts' query vectors: a pass for each of them."""

    def fit(self, known: Known) -> None:
        self.names = (BASE, *known.experts)

    def weights(self, queries: Queries) -> Weights:
        equal = np.full(len(queries), 1.0 / len(self.names))
        return dict.fromkeys(self.names, equal)


class Random(System):
    """An expert drawn at random for each query: the least that routing must beat."""

    def fit(self, known: Known) -> None:
        self.experts = known.experts

    def weights(self, queries: Queries) -> Weights:
        columns = np.random.default_rng(len(queries)).integers(len(self.experts), size=len(queries))
        return one_hot(self.experts, columns)


class Routed(System):
    """A router of the product under its policy.

    Args:
        router: its name.
        partition: how pilots are formed; ``best-expert`` is the paper's.
        generalist: whether the multi-task adapter is one of the experts.
        kind: of the experts; ``None`` is the suite's.
        policy: changes to :class:`RoutingPolicy`.
    """

    blends_deltas = True

    def __init__(
        self,
        router: str = "gain",
        partition: str = "cluster",
        *,
        generalist: bool = False,
        kind: TrainedKinds | None = None,
        **policy: float | bool,
    ) -> None:
        self.kind = kind
        self.router, self.partition, self.generalist, self.changes = router, partition, generalist, policy
        if generalist:
            self.needs = (MULTI_TASK,)

    def fit(self, known: Known) -> None:
        library = known.library(self.partition, generalist=self.generalist)
        self.policy = RoutingPolicy(make_router(self.router, library), **self.changes)  # type: ignore[arg-type]

    def decision(self, queries: Queries) -> Decision:
        return self.policy.decide(queries.route_embeddings)

    def weights(self, queries: Queries) -> Weights:
        decided = self.decision(queries).weights.astype(float)
        weights = {name: decided[:, column] for column, name in enumerate(self.policy.candidates)}
        prepared = weights[MERGED] == FALLBACK_WEIGHT
        return weights | {MERGED: np.where(prepared, 0.0, weights[MERGED]), FALLBACK: prepared.astype(float)}


class VectorMixture(Routed):
    """Query vectors averaged by softmax of the predicted gain over base and the best experts (one search).

    A pass for every expert that takes part: what the product's one-pass mixture is compared with.
    """

    blends_deltas = False

    def __init__(self, top: int = 3, temperature: float = 0.05, *, generalist: bool = False) -> None:
        super().__init__(generalist=generalist, mix=top, mix_temperature=temperature)

    def weights(self, queries: Queries) -> Weights:
        weights = super().weights(queries)
        of_experts = [weight for name, weight in weights.items() if name != BASE]
        others = np.sum(of_experts, axis=0)
        return weights | {BASE: 1.0 - others}


class BasePlusBest(Routed):
    """The mean of the base's vector and that of the best predicted expert."""

    blends_deltas = False

    def __init__(self) -> None:
        super().__init__(abstain=False)

    def weights(self, queries: Queries) -> Weights:
        best = self.decision(queries).scores[:, 2:].argmax(axis=1)
        weights = {BASE: np.full(len(queries), 0.5)}
        for name, chosen in one_hot(self.policy.candidates[2:], best).items():
            weights[name] = 0.5 * chosen
        return weights
