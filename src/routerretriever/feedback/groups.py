"""Traffic in groups: what the pilots know, by the collection they know it from, and what is far from all of them."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score

from routerretriever.feedback.gains import Evidence
from routerretriever.routing.abstention import NEIGHBOURS
from routerretriever.routing.pilot_library import FEEDBACK
from routerretriever.routing.policy import RoutingPolicy

APART = 0.11
"""Mean silhouette (Rousseeuw 1987) in the pilots' space from which on two halves of some far queries are two topics. No
sample of one real collection's queries reached it, and clearly different collections did."""
TOPIC_QUERIES = 50
"""A topic has so many: what it gains has to be told from noise without the others."""
CLUSTER_QUERIES = 400
"""A topic of more queries is divided into clusters of about so many: fewer cannot tell gains from noise."""
MAX_CLUSTERS = 20
"""Of the far queries of one collection into topics, and of a topic."""
_SAMPLE = 1000  # queries of each half for the silhouette
_BLOCK = 2048  # queries compared with the pilots at a time
_TEMPERATURE = 0.1  # the gain router's own


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Queries that are believed or not together.

    Attributes:
        name: the collection whose pilots are nearest; ``far-N`` for strangers.
        far: no pilot knows them.
        rows: of the evidence, those nearest to the centre first (n,).
        predicted: mean gain the router predicts for every expert (E,).
        shown: collections of the documents shown, most frequent first.
    """

    name: str
    far: bool
    rows: NDArray[np.int64]
    predicted: NDArray[np.float64]
    shown: tuple[str, ...]


def make_groups(policy: RoutingPolicy, evidence: Evidence) -> list[Group]:
    """Divide the queries of a log; a query is far if its familiarity is below the library's own limit.

    That limit, :attr:`routerretriever.familiarity.PilotSpace.unsure`, is the one at which the router abstains.
    """
    placed = [_placed(policy, block) for block in torch.from_numpy(evidence.route_embeddings).split(_BLOCK)]
    points, predicted, familiarity = (np.concatenate([block[part] for block in placed]) for part in (0, 1, 2))
    nearest = [name for block in placed for name in block[3]]
    far = familiarity < policy.router.space.reject_threshold
    members: dict[str, list[int]] = {}
    for row in np.flatnonzero(~far):
        members.setdefault(nearest[row], []).append(int(row))

    def group(name: str, is_far: bool, rows: NDArray[np.int64]) -> Group:
        centre = points[rows].mean(axis=0)
        rows = rows[np.argsort(-(points[rows] @ centre), kind="stable")]
        return Group(name, is_far, rows, predicted[rows].mean(axis=0), _shown(evidence, rows))

    known = [group(name, False, np.array(rows)) for name, rows in members.items()]
    clusters = sorted(_clusters(points, np.flatnonzero(far), evidence), key=len, reverse=True)
    return known + [group(f"far-{number}", True, rows) for number, rows in enumerate(clusters, start=1)]


def _placed(policy: RoutingPolicy, embeddings: torch.Tensor) -> tuple[Any, Any, Any, list[str]]:
    """Points (n, d) in the pilots' space, predicted gains (n, E), familiarities (n,), and nearest collections (n)."""
    similarities = policy.router.similarities(embeddings)
    decision, nearest = policy.decide(embeddings), similarities.nearest(NEIGHBOURS)
    sources, names = policy.library.sources, []
    for pilots, values in zip(nearest.indices.tolist(), nearest.values.tolist(), strict=True):
        votes: dict[str, float] = defaultdict(float)
        for pilot, value in zip(pilots, values, strict=True):
            votes[_plain(sources[pilot])] += math.exp(value / _TEMPERATURE)
        names.append(max(votes, key=votes.__getitem__))
    return (
        similarities.queries.numpy(),
        decision.scores[:, 2:].double().numpy(),
        decision.in_domain_scores.numpy(),
        names,
    )


def _plain(source: str) -> str:
    """A group of earlier feedback keeps its name, with its batch so that it is told from a new one."""
    return source.removeprefix(FEEDBACK).replace("/", " ") if source.startswith(FEEDBACK) else source


def _shown(evidence: Evidence, rows: NDArray[np.int64]) -> tuple[str, ...]:
    counts = Counter(collection for row in rows for event in evidence.events[row] for collection, _ in event.shown)
    return tuple(name for name, _ in counts.most_common())


def _clusters(points: NDArray[np.float32], far: NDArray[np.int64], evidence: Evidence) -> Iterator[NDArray[np.int64]]:
    """Far queries by the collection that they were mostly shown, then by topic, and large topics by k-means."""
    labels = np.array([(_shown(evidence, far[n : n + 1]) or ("",))[0] for n in range(len(far))], dtype=str)
    for label in np.unique(labels):
        for rows in _topics(points, far[labels == label]):
            yield from _divided(points, rows, min(MAX_CLUSTERS, max(1, len(rows) // CLUSTER_QUERIES)))


def _topics(points: NDArray[np.float32], rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Bisect queries for as long as the halves lie apart and neither is too small to be believed."""
    waiting, topics = [rows], list[NDArray[np.int64]]()
    while waiting:
        rows = waiting.pop()
        more = len(rows) >= 2 * TOPIC_QUERIES and len(waiting) + len(topics) + 2 <= MAX_CLUSTERS
        halves = _divided(points, rows, 2) if more else [rows]
        if len(halves) == 2 and min(map(len, halves)) >= TOPIC_QUERIES and _silhouette(points, halves) >= APART:
            waiting += halves
        else:
            topics.append(rows)
    return topics


def _divided(points: NDArray[np.float32], rows: NDArray[np.int64], k: int) -> list[NDArray[np.int64]]:
    if k == 1 or not np.ptp(points[rows], axis=0).any():  # other texts may have the same tokens
        return [rows]
    found = KMeans(k, n_init=3, random_state=0).fit_predict(points[rows])
    return [rows[found == number] for number in np.unique(found)]


def _silhouette(points: NDArray[np.float32], parts: list[NDArray[np.int64]]) -> float:
    sampled = [part[:: -(-len(part) // _SAMPLE)] for part in parts]
    labels = np.repeat(np.arange(len(parts)), [len(part) for part in sampled])
    return float(silhouette_score(points[np.concatenate(sampled)], labels))
