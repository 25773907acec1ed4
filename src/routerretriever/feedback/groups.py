"""Group the queries of a log: in-domain ones by collection, out-of-domain ones by topic."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score

from routerretriever.feedback.gains import Evidence
from routerretriever.kernels.vectors import Vectors
from routerretriever.routing.abstention import NEIGHBOURS
from routerretriever.routing.nearest_pilots import Similarities
from routerretriever.routing.pilot_library import FEEDBACK
from routerretriever.routing.policy import RoutingPolicy

APART = 0.11
"""Mean silhouette (Rousseeuw 1987) in the pilots' space from which on two halves of out-of-domain queries are two
topics. No sample of one real collection's queries reached it, and clearly different collections did."""
TOPIC_QUERIES = 50
"""Least number of queries of a topic: its gain has to be told from noise without the others."""
CLUSTER_QUERIES = 400
"""A larger topic is divided into clusters of about this many queries: fewer cannot tell gains from noise."""
MAX_CLUSTERS = 20
"""Most topics of the out-of-domain queries of one collection, and most clusters of a topic."""
_SAMPLE = 1000  # queries of each half for the silhouette
_BLOCK = 2048  # queries compared with the pilots at a time
_TEMPERATURE = 0.1  # the gain router's own


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Group:
    """Queries that are applied together or not at all.

    Attributes:
        name: the collection whose pilots are nearest, or ``out-of-domain-N``.
        out_of_domain: their in-domain scores are below the reject threshold.
        rows: of the evidence, those nearest to the centre first (n,).
        predicted: mean gain that the router predicts for every expert (E,).
        shown: collections of the documents shown, most frequent first.
    """

    name: str
    out_of_domain: bool
    rows: NDArray[np.int64]
    predicted: NDArray[np.float64]
    shown: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Placed:
    """n queries among the pilots: vectors in their space (n, d), predicted gains (n, E), scores, collections."""

    vectors: NDArray[np.float32]
    predicted: NDArray[np.float64]
    in_domain_scores: NDArray[np.float32]
    nearest: list[str]


def make_groups(policy: RoutingPolicy, evidence: Evidence) -> list[Group]:
    """Divide the queries of a log into groups.

    A query is out of domain if its in-domain score is below
    :attr:`~routerretriever.routing.abstention.PilotSpace.reject_threshold`, where the router abstains.
    """
    placed = _place(policy, evidence.route_embeddings)
    rejected = placed.in_domain_scores < policy.router.space.reject_threshold
    members: dict[str, list[int]] = {}
    for row in np.flatnonzero(~rejected):
        members.setdefault(placed.nearest[row], []).append(int(row))

    def group(name: str, rows: NDArray[np.int64], *, out_of_domain: bool) -> Group:
        centre = placed.vectors[rows].mean(axis=0)
        rows = rows[np.argsort(-(placed.vectors[rows] @ centre), kind="stable")]
        return Group(
            name=name,
            out_of_domain=out_of_domain,
            rows=rows,
            predicted=placed.predicted[rows].mean(axis=0),
            shown=_shown(evidence, rows),
        )

    groups = []
    for name, rows in members.items():
        groups.append(group(name, np.array(rows), out_of_domain=False))
    clusters = sorted(_clusters(placed.vectors, np.flatnonzero(rejected), evidence), key=len, reverse=True)
    for number, cluster in enumerate(clusters, start=1):
        groups.append(group(f"out-of-domain-{number}", cluster, out_of_domain=True))
    return groups


def _place(policy: RoutingPolicy, embeddings: Vectors) -> _Placed:
    vectors, predicted, scores = [], [], []
    nearest: list[str] = []
    for start in range(0, len(embeddings), _BLOCK):
        similarities = policy.router.similarities(embeddings[start : start + _BLOCK])
        decision = policy.decide_by(similarities)
        vectors.append(similarities.queries)
        predicted.append(decision.scores[:, 2:].astype(np.float64))
        scores.append(decision.in_domain_scores)
        nearest += _nearest_collections(similarities, policy.library.sources)
    return _Placed(
        vectors=np.concatenate(vectors),
        predicted=np.concatenate(predicted),
        in_domain_scores=np.concatenate(scores),
        nearest=nearest,
    )


def _nearest_collections(similarities: Similarities, sources: Sequence[str]) -> list[str]:
    """Return the collection that the nearest pilots of each query vote for (n)."""
    nearest, names = similarities.nearest(NEIGHBOURS), []
    for pilots, values in zip(nearest.indices.tolist(), nearest.values.tolist(), strict=True):
        votes: dict[str, float] = defaultdict(float)
        for pilot, value in zip(pilots, values, strict=True):
            votes[_plain(sources[pilot])] += math.exp(value / _TEMPERATURE)
        names.append(max(votes, key=votes.__getitem__))
    return names


def _plain(source: str) -> str:
    """Return a readable name; a group of earlier feedback has its batch before its name."""
    if not source.startswith(FEEDBACK):
        return source
    return source.removeprefix(FEEDBACK).replace("/", " ")


def _shown(evidence: Evidence, rows: NDArray[np.int64]) -> tuple[str, ...]:
    counts: Counter[str] = Counter()
    for row in rows:
        for event in evidence.events[row]:
            counts.update(collection for collection, _ in event.shown)
    return tuple(name for name, _ in counts.most_common())


def _clusters(
    points: NDArray[np.float32], rejected: NDArray[np.int64], evidence: Evidence
) -> Iterator[NDArray[np.int64]]:
    """Divide out-of-domain queries by the collection mostly shown, then by topic, and large topics by k-means."""
    most_shown = []
    for row in rejected:
        names = _shown(evidence, np.array([row]))
        most_shown.append(next(iter(names), ""))
    labels = np.array(most_shown, dtype=str)
    for label in np.unique(labels):
        for rows in _topics(points, rejected[labels == label]):
            yield from _divided(points, rows, min(MAX_CLUSTERS, max(1, len(rows) // CLUSTER_QUERIES)))


def _topics(points: NDArray[np.float32], rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Bisect queries while the halves are apart and neither is too small to be significant."""
    waiting, topics = [rows], list[NDArray[np.int64]]()
    while waiting:
        rows = waiting.pop()
        more = len(rows) >= 2 * TOPIC_QUERIES and len(waiting) + len(topics) + 2 <= MAX_CLUSTERS
        halves = _divided(points, rows, 2) if more else [rows]
        if (
            len(halves) == 2
            and min(map(len, halves)) >= TOPIC_QUERIES
            and _silhouette(points, halves) >= APART
        ):
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
