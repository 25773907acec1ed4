"""Everything that is compared, each as its source defines it.

A system is fitted on held-out train and dev queries (:class:`Known`) and then says, for queries of which
it sees text and route embedding only, how to weigh the candidates. A single weight of 1 is a choice. Other
weights of the product's own policies are shares of the experts' updates, applied in one forward pass; those
of the rest mix the candidates' vectors, a pass each, which documents being frozen is a fusion of scores.
Oracles are the exception that their name says: they see the test judgements and bound the others.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from routerretriever.bench.data import FALLBACK, Candidate, Queries, QuerySet
from routerretriever.kernels.exact_search import Vectors
from routerretriever.routing.candidates import BASE, MERGED
from routerretriever.routing.form_pilots import PILOTS_PER_COLLECTION, TRAINING_PILOTS, Measurement, extend_library
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
        """The pilot library that the product would build of these measurements; fitted once, for that takes time."""
        if (partition, generalist) not in self._libraries:
            self._libraries[partition, generalist] = self._built(partition, generalist)
        return self._libraries[partition, generalist]

    def _built(self, partition: str, generalist: bool) -> PilotLibrary:
        experts = (*self.experts, MULTI_TASK) if generalist else self.experts
        empty = PilotLibrary.empty(self.measurements[0].embeddings.shape[1], experts)
        measurements = self.generalist if generalist else self.measurements
        limits = {"pilots_per_collection": self.pilots, "training_pilots": self.training_pilots}
        return extend_library(empty, measurements, partition=partition, **limits)


class System(ABC):
    """One row of the table."""

    is_oracle = False
    needs: tuple[str, ...] = ()
    """Candidates besides base, merged and the experts."""
    blends_updates = False
    """Whether weights are shares of updates within one pass, or of vectors."""

    def fit(self, known: Known) -> None:  # noqa: B027 - most systems have nothing to learn
        """Learn from held-out queries."""

    @abstractmethod
    def weights(self, queries: Queries) -> Weights:
        """How to weigh the candidates for every query."""

    def decision(self, queries: Queries) -> Decision | None:
        """Predicted gains and in-domain scores, where the system has any."""
        return None

    def finish(self, queries: QuerySet, outcome: Candidate) -> Candidate:
        """A last word on the ranking, for systems outside dense retrieval."""
        return outcome


def constant(name: str, n: int) -> Weights:
    """All queries to one candidate."""
    return {name: np.ones(n)}


def one_hot(names: Sequence[str], columns: NDArray[np.int64]) -> Weights:
    """Every query to the candidate of its column."""
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
        return {name: np.full(len(queries), 1.0 / len(self.names)) for name in self.names}


class Random(System):
    """An expert drawn at random for every query: what routing is worth at least."""

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
        policy: changes to :class:`RoutingPolicy`.
    """

    blends_updates = True

    def __init__(
        self, router: str = "gain", partition: str = "cluster", *, generalist: bool = False, **policy: float | bool
    ) -> None:
        self.router, self.partition, self.generalist, self.changes = router, partition, generalist, policy
        if generalist:
            self.needs = (MULTI_TASK,)

    def fit(self, known: Known) -> None:
        library = known.library(self.partition, generalist=self.generalist)
        self.policy = RoutingPolicy(make_router(self.router, library), **self.changes)  # type: ignore[arg-type]

    def decision(self, queries: Queries) -> Decision:
        return self.policy.decide(torch.from_numpy(queries.route_embeddings))

    def weights(self, queries: Queries) -> Weights:
        shares = self.decision(queries).weights.numpy().astype(float)
        weights = {name: shares[:, column] for column, name in enumerate(self.policy.candidates)}
        prepared = weights[MERGED] == FALLBACK_WEIGHT
        return weights | {MERGED: np.where(prepared, 0.0, weights[MERGED]), FALLBACK: prepared.astype(float)}


class VectorMixture(Routed):
    """Query vectors averaged by softmax of the predicted gain over base and the best experts (one search).

    A pass for every expert that takes part: what the product's one-pass mixture is compared with.
    """

    blends_updates = False

    def __init__(self, top: int = 3, temperature: float = 0.05, *, generalist: bool = False) -> None:
        super().__init__(generalist=generalist, mix=top, mix_temperature=temperature)

    def weights(self, queries: Queries) -> Weights:
        weights = super().weights(queries)
        others = np.sum([weight for name, weight in weights.items() if name != BASE], axis=0)
        return weights | {BASE: 1.0 - others}


class BasePlusBest(Routed):
    """The mean of the base's vector and that of the best predicted expert."""

    blends_updates = False

    def __init__(self) -> None:
        super().__init__(abstain=False)

    def weights(self, queries: Queries) -> Weights:
        best = self.decision(queries).scores[:, 2:].argmax(dim=1).numpy()
        chosen = one_hot(self.policy.candidates[2:], best)
        return {BASE: np.full(len(queries), 0.5)} | {name: 0.5 * weight for name, weight in chosen.items()}


class FusedWithBM25(Routed):
    """The routed ranking and BM25's, fused by reciprocal rank (Cormack et al. 2009, k = 60)."""

    needs = (BM25,)

    def finish(self, queries: QuerySet, outcome: Candidate) -> Candidate:
        return queries.measure(reciprocal_rank_fusion(outcome.ranking, queries.candidates[BM25].ranking))


def reciprocal_rank_fusion(*rankings: NDArray[np.int32], k: int = 60, depth: int = 100) -> NDArray[np.int32]:
    """Rankings (n, m) of rows, -1 for nothing → one ranking (n, depth)."""
    fused = np.full((len(rankings[0]), depth), -1, np.int32)
    for number in range(len(fused)):
        scores: dict[int, float] = {}
        for ranking in rankings:
            for place, row in enumerate(ranking[number].tolist(), start=1):
                if row >= 0:
                    scores[row] = scores.get(row, 0.0) + 1.0 / (k + place)
        best = sorted(scores, key=lambda row: (-scores[row], row))[:depth]
        fused[number, : len(best)] = best
    return fused


class Oracle(System):
    """Sees the judgements of the very queries it chooses for."""

    is_oracle = True

    def fit(self, known: Known) -> None:
        self.names = (BASE, *known.experts)

    def weights(self, queries: Queries) -> Weights:
        raise NotImplementedError("an oracle needs the judged queries")

    @abstractmethod
    def judged_weights(self, queries: QuerySet, others: Sequence[QuerySet]) -> Weights:
        """Weights from the test values; ``others`` hold the same queries under experts of other seeds."""


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
    """As InstanceOracle, but it chooses by experts trained with other seeds, which share no chance with these."""

    def judged_weights(self, queries: QuerySet, others: Sequence[QuerySet]) -> Weights:
        values = [np.stack([other.candidates[name].ndcg for name in self.names]) for other in others]
        return one_hot(self.names, np.mean(values, axis=0).argmax(axis=0))


def outcome(system: System, queries: QuerySet, others: Sequence[QuerySet] = ()) -> Candidate:
    """What a fitted system makes of some queries: looked up where it chooses, encoded or mixed where it blends."""
    judged = system.judged_weights(queries, others) if isinstance(system, Oracle) else None
    given = judged or system.weights(queries.queries)
    weights = {name: weight for name, weight in given.items() if weight.any()}
    if all(np.isin(weight, (0.0, 1.0)).all() for weight in weights.values()):
        chosen = _look_up(queries, {name: weight > 0 for name, weight in weights.items()})
    else:
        chosen = queries.rank(_blended(queries, weights) if system.blends_updates else _mixed(queries, weights))
    return system.finish(queries, chosen)


def _mixed(queries: QuerySet, weights: Weights) -> Vectors:
    mixed = sum(weight[:, None] * queries.candidates[name].vectors for name, weight in weights.items())
    return np.asarray(mixed, np.float32)


def _blended(queries: QuerySet, weights: Weights) -> Vectors:
    vectors = np.empty_like(queries.candidates[BASE].vectors)
    rest = np.ones(len(vectors), bool)
    for name, weight in weights.items():
        whole = weight >= 1.0
        vectors[whole] = queries.candidates[name].vectors[whole]
        rest &= ~whole
    rows = np.flatnonzero(rest)
    if len(rows):
        vectors[rows] = queries.blender.blend(weights, rows)
    return vectors


def _look_up(queries: QuerySet, masks: Mapping[str, NDArray[np.bool_]]) -> Candidate:
    first = queries.candidates[BASE]
    ranking = np.empty_like(first.ranking)
    values = {measure: np.empty(len(ranking)) for measure in first.values}
    for name, mask in masks.items():
        candidate = queries.candidates[name]
        ranking[mask] = candidate.ranking[mask]
        for measure, column in values.items():
            column[mask] = candidate.values[measure][mask]
    return Candidate(np.empty((0, 0), np.float32), ranking, values)
