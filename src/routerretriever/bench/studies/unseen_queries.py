"""Gains on queries that a library has not seen, from held-out queries alone, so that they may set its defaults.

Two situations are cross-validated. *In domain*: a library without a quarter of every collection routes that
quarter. *Out of domain*: an expert and its pilots are left out, and the others route its collection's queries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from routerretriever.bench.outcome import outcome
from routerretriever.bench.query_set import QuerySet
from routerretriever.bench.runner import Bench
from routerretriever.bench.systems import Routed
from routerretriever.routing.abstention import CrossValidatedScores, PilotSpace
from routerretriever.routing.candidates import BASE
from routerretriever.routing.folds import contiguous_folds
from routerretriever.routing.form_pilots import Measurement, extend_library
from routerretriever.routing.pilot_library import PilotLibrary
from routerretriever.routing.policy import RoutingPolicy
from routerretriever.routing.routers import make_router

IN_DOMAIN, OUT_OF_DOMAIN = "in domain", "out of domain"
_FOLDS = 4


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class UnseenQueries:
    """A library, and queries of one collection that it has not seen.

    Attributes:
        situation: ``in domain`` or ``out of domain``.
        library: routes the queries.
        scores: cross-validated in-domain scores of the library's own pilots.
        queries: of one collection (n).
        rows: the queries that count (n,).
    """

    situation: str
    library: PilotLibrary
    scores: CrossValidatedScores
    queries: QuerySet
    rows: NDArray[np.bool_]

    def gains(self, fractions: tuple[float, float]) -> NDArray[np.float64]:
        """Return nDCG@10 over the base of the queries that count.

        Args:
            fractions: of in-domain queries that fall below the reject and below the trust threshold.
        """
        assert self.library.space is not None
        space = self.library.space.with_thresholds(self.scores, fractions)
        system = Routed()
        system.policy = RoutingPolicy(make_router("gain", replace(self.library, space=space)))
        difference = outcome(system, self.queries).ndcg - self.queries.candidates[BASE].ndcg
        return np.asarray(difference[self.rows])


def unseen_queries(bench: Bench, seed: int) -> Iterator[UnseenQueries]:
    """Yield every quarter of the held-out queries as in-domain ones, then every collection as out of domain."""
    names = bench.suite.experts
    held_out = bench.prepare(seed).held_out
    sizes = [len(held_out[name].queries) for name in names]
    sources = np.repeat(np.arange(len(names)), sizes)
    for fold in contiguous_folds(sources, _FOLDS):
        asked, kept = {}, []
        for number, name in enumerate(names):
            asked[name] = fold[sources == number]
            kept.append(_only(held_out[name].measurement(names), ~asked[name]))
        library, scores = _library(names, kept)
        for name in names:
            yield UnseenQueries(
                situation=IN_DOMAIN,
                library=library,
                scores=scores,
                queries=held_out[name],
                rows=asked[name],
            )
    for left_out in names:
        others = tuple(name for name in names if name != left_out)
        collection = bench.collections[left_out]
        split = collection.train_and_held_out()[1]
        queries = bench.query_set(bench.model(seed), others, collection, split)
        measurements = [held_out[name].measurement(others) for name in others]
        library, scores = _library(others, measurements)
        yield UnseenQueries(
            situation=OUT_OF_DOMAIN,
            library=library,
            scores=scores,
            queries=queries,
            rows=np.ones(len(split), bool),
        )


def _only(measured: Measurement, rows: NDArray[np.bool_]) -> Measurement:
    queries = tuple(compress(measured.queries, rows))
    pilot_gains = measured.pilot_gains
    return replace(
        measured,
        queries=queries,
        embeddings=measured.embeddings[rows],
        gains=measured.gains[rows],
        pilot_gains=None if pilot_gains is None else pilot_gains[rows],
    )


def _library(
    experts: Sequence[str], measurements: Sequence[Measurement]
) -> tuple[PilotLibrary, CrossValidatedScores]:
    empty = PilotLibrary.empty(measurements[0].embeddings.shape[1], experts)
    library = extend_library(empty, measurements)
    return library, PilotSpace.cross_validate(library.centroids, library.sources, library.measured)
