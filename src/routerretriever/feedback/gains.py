"""Estimate what each expert gains over the base on the documents that were shown.

A log says nothing about documents that nobody saw. So every candidate ranks only the shown documents, by the
vectors in the index, and is measured by how high it ranks those that were clicked or judged relevant, with the
discount of nDCG@10.

Lower ranks get fewer clicks whatever is shown there. The inverse propensity weighting of Joachims, Swaminathan and
Schnabel (2017, arXiv 1608.04468) corrects this: a click at rank r counts ``r ** eta`` times (their position-based
model, with examination 1 / r ** eta), at most ``clip`` times, and the sum over a group of queries is divided by
the sum of the weights (self-normalised, after Swaminathan and Joachims 2015). Random clicks on any shown document
cancel out, since all candidates rank the same documents; they only make the estimate smaller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from routerretriever.encoder.query_batch import prepare_queries
from routerretriever.evaluation.statistics import exceeds, ratio_of_sums
from routerretriever.feedback.log import Event, Log
from routerretriever.progress import Progress, Silent
from routerretriever.routing.candidates import BASE

if TYPE_CHECKING:
    from routerretriever.model import RouterRetriever

Matrix = NDArray[np.float64]
DEPTH = 10
MIN_QUERIES = 20
"""A group with fewer queries with signal is never significant."""
MIN_GAIN = 0.01
"""Least gain (nDCG@10) that the lower end of an interval must reach: about as much as a candidate can seem to gain
only because another one chose the shown documents."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Evidence:
    """Gains on n different queries of a log; lines with the same query are averaged, so that each counts once.

    Attributes:
        queries: texts (n).
        route_embeddings: (n, d).
        gains: weighted utility of every expert minus the base's (n, E).
        weights: of the queries, by whose sum a sum of gains is divided (n,).
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


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Estimate:
    """Gains of a group of queries.

    Attributes:
        gains: estimated gain of every expert (E,).
        errors: standard errors of these (E,).
        significant: gains that are significant, shrunk by their error; 0 for the others (E,).
        queries: number of queries with signal: with a click or a relevant document.
        clicks: number of clicked or relevant documents.
    """

    gains: Matrix
    errors: Matrix
    significant: Matrix
    queries: int
    clicks: int


def discount(ranks: NDArray[np.int64]) -> Matrix:
    """Return DCG's discount of ranks, counted from 0; it is 0 beyond the tenth."""
    return np.where(ranks < DEPTH, 1.0 / np.log2(ranks + 2.0), 0.0)


def relevance(event: Event, eta: float, clip: float) -> tuple[Matrix, float]:
    """Return the utility of each shown document (m,), and the weight of the whole line."""
    if event.judged:
        ideal = float(np.sort(event.marks)[::-1] @ discount(np.arange(len(event.marks))))
        return event.marks / (ideal or 1.0), 1.0 if ideal else 0.0
    weights = event.marks * np.minimum(np.arange(1.0, len(event.marks) + 1) ** eta, clip)
    return weights, float(weights.sum())


def measure(
    model: RouterRetriever,
    log: Log,
    *,
    cosine: bool,
    eta: float,
    clip: float,
    progress: Progress | None = None,
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
    queries = prepare_queries(model.encoder, texts, model.query_prompt)
    number = dict(zip(texts, range(len(texts)), strict=True))
    lines = np.array([len(events) for events in by_query.values()])

    # What does not depend on the candidate: the utility and the vectors of the shown documents of every line.
    worth, documents = [], []
    weights = np.zeros(len(texts))
    clicks = np.zeros(len(texts), np.int64)
    for event in log.events:
        marks, weight = relevance(event, eta, clip)
        worth.append((marks, weight))
        block = np.stack([log.vectors[key] for key in event.shown])
        documents.append(_unit(block) if cosine else block)
        weights[number[event.query]] += weight
        clicks[number[event.query]] += event.evidence

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
    return Evidence(
        queries=tuple(texts),
        route_embeddings=queries.route_embeddings(),
        gains=np.stack(utilities[1:], axis=1) - utilities[0][:, None],
        weights=weights / lines,
        clicks=clicks,
        lines=lines,
        events=tuple(map(tuple, by_query.values())),
    )


def estimate(evidence: Evidence, rows: Sequence[int] | NDArray[np.int64], min_clicks: int) -> Estimate:
    """Estimate the gains of a group of queries.

    A significant gain is shrunk by ``1 - (error / gain) ** 2`` (after James and Stein 1961), as the gains that the
    router compares it with are; the end of the interval would lose against those of other domains.

    Args:
        evidence: of the whole log.
        rows: of the group.
        min_clicks: with fewer clicked or relevant documents nothing is significant.
    """
    gains, weights = evidence.gains[rows], evidence.weights[rows]
    queries, clicks = int(np.count_nonzero(weights > 0)), int(evidence.clicks[rows].sum())
    if not queries:
        nothing = np.zeros(gains.shape[1])
        infinite = np.full_like(nothing, np.inf)
        return Estimate(gains=nothing, errors=infinite, significant=nothing, queries=0, clicks=clicks)
    mean, errors = ratio_of_sums(gains, weights)
    enough = queries >= MIN_QUERIES and clicks >= min_clicks
    significant = enough & exceeds(mean, errors, MIN_GAIN)
    shrunk = np.zeros_like(mean)
    shrunk[significant] = mean[significant] - errors[significant] ** 2 / mean[significant]
    return Estimate(gains=mean, errors=errors, significant=shrunk, queries=queries, clicks=clicks)


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, 1e-12))
