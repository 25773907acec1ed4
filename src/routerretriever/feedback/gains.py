"""What an expert gains over the base, estimated on the documents that were shown.

A log says nothing of documents that nobody saw. So every candidate ranks the shown documents alone, by the vectors
that the index holds, and is measured by how high it puts those that were wanted, discounted as in nDCG@10.

Clicks are fewer further down whatever stands there. The inverse propensity weighting of Joachims, Swaminathan and
Schnabel (2017, arXiv 1608.04468) makes up for it: a click at rank r counts ``r ** eta`` times (their position-based
model, with examination 1 / r ** eta), at most ``clip`` times, and the sum over a group of queries is normalised by
the sum of the weights (self-normalised, after Swaminathan and Joachims 2015). Clicks that fall on any shown document
alike cancel, since all candidates rank the same documents; they only make the estimate smaller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from routerretriever.encoder.query_batch import EncodedQueries
from routerretriever.feedback.log import Event, Log
from routerretriever.progress import Progress, Silent
from routerretriever.routing.candidates import BASE

if TYPE_CHECKING:
    from routerretriever.model import RouterRetriever

Matrix = NDArray[np.float64]
DEPTH = 10
MIN_QUERIES = 20
"""Fewer queries of a group say nothing, whatever they say."""
LEVEL = 0.05
"""Of the one-sided test against no gain, for every expert."""
MIN_GAIN = 0.01
"""Least gain (nDCG@10) that the lower end of an interval must reach: about what the choice of the shown documents can
feign for a candidate that did not choose them."""


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What a log says of n different queries; lines with the same query are averaged, so that none counts more.

    Attributes:
        queries: texts (n).
        route_embeddings: (n, d).
        gains: weighted utility of every expert minus the base's (n, E).
        weights: that they are to be divided by (n,).
        clicks: documents that were clicked or judged relevant (n,).
        lines: number of lines of each (n,).
        events: the lines of each (n).
    """

    queries: tuple[str, ...]
    route_embeddings: NDArray[np.float32]
    gains: Matrix
    weights: Matrix
    clicks: NDArray[np.int64]
    lines: NDArray[np.int64]
    events: tuple[tuple[Event, ...], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """Gains of a group: estimated, their standard errors, and as far as they are believed; all (E,), 0 for not."""

    gains: Matrix
    errors: Matrix
    believed: Matrix
    queries: int
    clicks: int


def discount(ranks: NDArray[np.int64]) -> Matrix:
    """DCG's discount of ranks from 0, none beyond the tenth."""
    return np.where(ranks < DEPTH, 1.0 / np.log2(ranks + 2.0), 0.0)


def relevance(event: Event, eta: float, clip: float) -> tuple[Matrix, float]:
    """What each shown document is worth (m,), and the weight of the whole line."""
    if event.judged:
        ideal = float(np.sort(event.marks)[::-1] @ discount(np.arange(len(event.marks))))
        return event.marks / (ideal or 1.0), 1.0 if ideal else 0.0
    weights = event.marks * np.minimum(np.arange(1.0, len(event.marks) + 1) ** eta, clip)
    return weights, float(weights.sum())


def measure(
    model: RouterRetriever, log: Log, *, cosine: bool, eta: float, clip: float, progress: Progress | None = None
) -> Evidence:
    """Rank the shown documents of every line by base and experts.

    Args:
        model: encodes the queries; documents come with the log.
        log: as read.
        cosine: how vectors are compared.
        eta: of the propensity 1 / rank ** eta; 0 for none.
        clip: most that a click may weigh.
        progress: where to report.
    """
    by_query: dict[str, list[Event]] = {}
    for event in log.events:
        by_query.setdefault(event.query, []).append(event)
    texts = list(by_query)
    queries = EncodedQueries.of(model.encoder, texts, model.query_prompt)
    number = {text: row for row, text in enumerate(texts)}
    worth = [relevance(event, eta, clip) for event in log.events]
    documents = [np.stack([log.vectors[key] for key in event.shown]) for event in log.events]
    if cosine:
        documents = [block / np.maximum(np.linalg.norm(block, axis=1, keepdims=True), 1e-12) for block in documents]
    lines = np.array([len(events) for events in by_query.values()])
    utilities = []
    with (progress or Silent()).task("measure feedback", 1 + len(model.experts)) as task:
        for candidate in (BASE, *model.experts):
            vectors = queries.vectors(model.encoder.pinned_plan(candidate))
            utility = np.zeros(len(texts))
            for event, (marks, weight), block in zip(log.events, worth, documents, strict=True):
                if weight:
                    row = number[event.query]
                    order = np.argsort(-(block @ vectors[row]), kind="stable")
                    utility[row] += marks[order] @ discount(np.arange(len(order))) / lines[row]
            utilities.append(utility)
            task.advance(1, candidate)
    weights = np.zeros(len(texts))
    np.add.at(weights, [number[event.query] for event in log.events], [weight for _, weight in worth])
    return Evidence(
        tuple(texts),
        queries.route_embeddings(),
        np.stack(utilities[1:], axis=1) - utilities[0][:, None],
        weights / lines,
        np.array([sum(event.evidence for event in events) for events in by_query.values()]),
        lines,
        tuple(map(tuple, by_query.values())),
    )


def estimate(evidence: Evidence, rows: Sequence[int] | NDArray[np.int64], min_clicks: int) -> Estimate:
    """Gains of a group of queries.

    The ratio of summed gains to summed weights, its error by linearisation over queries. A gain is believed once that
    end of its one-sided interval which lies nearer to zero is beyond ``MIN_GAIN``: no query turns a route by itself.
    It is then credited by the share ``1 - (error / mean) ** 2`` (after James and Stein 1961), as the gains that the
    router compares it with are: the end of the interval would lose against those of strange domains.
    """
    gains, weights = evidence.gains[rows], evidence.weights[rows]
    heard, clicks = weights > 0, int(evidence.clicks[rows].sum())
    n, total = int(heard.sum()), float(weights.sum())
    if not n:
        nothing = np.zeros(gains.shape[1])
        return Estimate(nothing, np.full_like(nothing, np.inf), nothing, 0, clicks)
    mean = gains.sum(axis=0) / total
    residuals = gains - weights[:, None] * mean
    errors = np.sqrt((residuals**2).sum(axis=0) * n / max(n - 1, 1)) / total
    nearer = np.sign(mean) * (np.abs(mean) - norm.ppf(1 - LEVEL) * errors)
    enough = n >= MIN_QUERIES and clicks >= min_clicks
    sure = enough & (np.sign(nearer) == np.sign(mean)) & (np.abs(nearer) >= MIN_GAIN)
    shrunk = np.zeros_like(mean)
    shrunk[sure] = mean[sure] - errors[sure] ** 2 / mean[sure]
    return Estimate(mean, errors, shrunk, n, clicks)
