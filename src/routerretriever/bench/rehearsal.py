"""How much to hold back from doubtful queries, judged on held-out queries alone, so that it may set the default.

Two situations are rehearsed. *Known*: a library without a quarter of every collection routes that quarter.
*Strangers*: an expert and its pilots are taken away, and its collection's queries have to do with the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from routerretriever.bench.data import QuerySet
from routerretriever.bench.systems import Routed, outcome
from routerretriever.routing.abstention import PilotSpace, Rehearsed
from routerretriever.routing.candidates import BASE
from routerretriever.routing.form_pilots import Measurement, extend_library
from routerretriever.routing.pilot_library import PilotLibrary
from routerretriever.routing.policy import RoutingPolicy
from routerretriever.routing.routers import make_router

if TYPE_CHECKING:
    from routerretriever.bench.runner import Bench

KNOWN, STRANGERS = "known", "strangers"
_FOLDS = 4


@dataclass(frozen=True, slots=True, eq=False)
class Rehearsal:
    """A library, and queries of one collection that it has not seen.

    Attributes:
        situation: ``known`` or ``strangers``.
        rehearsed: familiarity of the library's own pilots, left out in turn.
        rows: which of the queries count (n,).
    """

    situation: str
    library: PilotLibrary
    rehearsed: Rehearsed
    queries: QuerySet
    rows: NDArray[np.bool_]

    def gains(self, shares: tuple[float, float]) -> NDArray[np.float64]:
        """nDCG@10 over base of the queries that count, with thresholds at two shares of the known queries."""
        assert self.library.space is not None
        space = self.library.space.divided(self.rehearsed, shares)
        system = Routed()
        system.policy = RoutingPolicy(make_router("gain", replace(self.library, space=space)))
        difference = outcome(system, self.queries).ndcg - self.queries.candidates[BASE].ndcg
        return np.asarray(difference[self.rows])


def rehearsals(bench: Bench, seed: int) -> Iterator[Rehearsal]:
    """Every quarter of the held-out queries as known ones, then every collection as strangers."""
    names = bench.suite.experts
    held_out = bench.prepare(seed).held_out
    folds = {n: np.arange(len(q.queries)) * _FOLDS // len(q.queries) for n, q in held_out.items()}
    for fold in range(_FOLDS):
        kept = [_only(held_out[name].measurement(names), folds[name] != fold) for name in names]
        library, rehearsed = _library(names, kept)
        for name in names:
            yield Rehearsal(KNOWN, library, rehearsed, held_out[name], folds[name] == fold)
    for stranger in names:
        others = tuple(name for name in names if name != stranger)
        collection = bench.collections[stranger]
        split = collection.train_and_held_out()[1]
        queries = bench.query_set(bench.model(seed), others, collection, split)
        library, rehearsed = _library(others, [held_out[name].measurement(others) for name in others])
        yield Rehearsal(STRANGERS, library, rehearsed, queries, np.ones(len(split), bool))


def _only(measured: Measurement, rows: NDArray[np.bool_]) -> Measurement:
    queries = tuple(query for query, kept in zip(measured.queries, rows, strict=True) if kept)
    return replace(measured, queries=queries, embeddings=measured.embeddings[rows], gains=measured.gains[rows])


def _library(experts: Sequence[str], measurements: Sequence[Measurement]) -> tuple[PilotLibrary, Rehearsed]:
    empty = PilotLibrary.empty(measurements[0].embeddings.shape[1], experts)
    library = extend_library(empty, measurements)
    return library, PilotSpace.rehearse(library.centroids, library.sources, library.measured)
