"""How probable it is that a hit is relevant: a logistic regression on what a search sees of it.

The probability is calibrated on judged queries of the pilot library, for each collection and
candidate, because experts move the scale of the similarities. Below a limit, the first hit of a
query is called irrelevant: the limit is a quantile of the first hits' probabilities on judged
queries whose answer was found (split conformal prediction; Angelopoulos and Bates 2021,
arXiv 2107.07511), so that a stated share of good answers is lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

HITS = 10
"""Hits of each query that a calibration reads."""

VECTOR_FEATURES = 4
"""The first features need no words: they serve searches by vectors alone."""

FEATURES = 6

LOST = 0.05
"""Share of queries with a relevant hit for which the limit may say "nothing relevant"."""


def hit_features(similarities: NDArray[Any], word_scores: NDArray[Any], order: NDArray[np.intp]) -> Floats:
    """Return what the calibration reads of the hits of one query (k, :data:`FEATURES`).

    These are the similarity, how far it is below the best one, the logarithm of the rank, how far
    the tenth similarity is below the best one, the share of the best BM25 score, and the logarithm
    of the BM25 score.

    Args:
        similarities: of the query and all candidates (n,).
        word_scores: BM25 scores of the candidates (n,).
        order: places of the hits among the candidates, best first (k,).
    """
    own = similarities[order]
    best = similarities.max(initial=-1.0)
    tenth = own[:HITS].min(initial=best)
    words = word_scores[order]
    most_words = word_scores.max(initial=0.0)
    share = words / most_words if most_words > 0 else np.zeros(len(order))
    columns = [
        own,
        best - own,
        np.log1p(np.arange(len(order))),
        np.full(len(order), best - tenth),
        share,
        np.log1p(words),
    ]
    return np.stack(columns, axis=1).astype(np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Logistic:
    """A logistic regression, and the limit below which a first hit counts as irrelevant.

    Attributes:
        intercept: of the regression.
        coefficients: one for each feature it reads; those of the first features come first.
        limit: least probability of a first hit that may be relevant, 0..1.
    """

    intercept: float
    coefficients: tuple[float, ...]
    limit: float = 0.0

    def probabilities(self, features: Floats) -> Floats:
        """Return the probability of each hit (k,), 0..1, from its features (k, F)."""
        read = features[:, : len(self.coefficients)]
        probabilities: Floats = 1.0 / (1.0 + np.exp(-(read @ np.array(self.coefficients) + self.intercept)))
        return probabilities


@dataclass(frozen=True, slots=True, kw_only=True)
class Relevance:
    """Calibrations for the hits of one query.

    Attributes:
        hybrid: of a search by vectors and words.
        vector: of a search by vectors alone.
        source: the judged queries behind them, in words.
    """

    hybrid: Logistic
    vector: Logistic
    source: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RelevanceTable:
    """All calibrations of a pilot library.

    Attributes:
        pooled: for queries that resemble no collection, fitted to all collections at once, each
            counting the same, beside the base.
        by_collection: collection → its calibrations beside the base and beside its expert;
            only collections with enough judged queries have one.
        samples: collection → features of hits and whether each is relevant
            (2, n, :data:`HITS`, :data:`FEATURES` + 1), beside the base and beside the expert; NaN
            where a query has fewer hits.
    """

    pooled: Relevance
    by_collection: Mapping[str, tuple[Relevance, Relevance]]
    samples: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)

    def of(self, collection: str, beside: int) -> Relevance:
        """Return the calibrations of a collection beside the base (0) or its expert (1), or the pooled ones."""
        own = self.by_collection.get(collection)
        return self.pooled if own is None else own[beside]

    def to_dict(self) -> dict[str, Any]:
        """Return the calibrations as plain data for JSON, without the samples."""
        own = {}
        for name, pair in self.by_collection.items():
            own[name] = [_plain(relevance) for relevance in pair]
        return {"pooled": _plain(self.pooled), "collections": own}

    @classmethod
    def from_dict(
        cls, content: Mapping[str, Any], samples: Mapping[str, NDArray[np.float32]]
    ) -> RelevanceTable:
        """Return what :meth:`to_dict` wrote, with its samples."""
        own = {}
        for name, (base, expert) in content["collections"].items():
            own[name] = (_relevance(base), _relevance(expert))
        return cls(pooled=_relevance(content["pooled"]), by_collection=own, samples=samples)


def _plain(relevance: Relevance) -> dict[str, Any]:
    content: dict[str, Any] = {"source": relevance.source}
    for name, logistic in (("hybrid", relevance.hybrid), ("vector", relevance.vector)):
        content[name] = {
            "intercept": logistic.intercept,
            "coefficients": logistic.coefficients,
            "limit": logistic.limit,
        }
    return content


def _relevance(content: Mapping[str, Any]) -> Relevance:
    parts = {}
    for name in ("hybrid", "vector"):
        own = content[name]
        parts[name] = Logistic(
            intercept=own["intercept"], coefficients=tuple(own["coefficients"]), limit=own["limit"]
        )
    return Relevance(hybrid=parts["hybrid"], vector=parts["vector"], source=content["source"])
