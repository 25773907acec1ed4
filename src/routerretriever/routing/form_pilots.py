"""Form pilots of measured queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from routerretriever.kernels.vectors import Vectors, unit_rows
from routerretriever.routing.fit_relevance import fit_relevance
from routerretriever.routing.gain_table import mean_by_group
from routerretriever.routing.pilot_library import PilotLibrary
from routerretriever.routing.word_gains import WordGains

PILOTS_PER_COLLECTION = 500
TRAINING_PILOTS = 1000
"""Training queries of a collection that are kept as pilots without gains."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Measurement:
    """Gains measured on one collection's held-out queries, with what the router reads of them.

    Attributes:
        collection: its name.
        queries: texts (n,).
        embeddings: route embeddings (n, d).
        gains: nDCG@10 of every expert minus that of the base (n, E).
        pilot_gains: the same without what chose an expert (n, E): NaN says nothing. Default ``gains``.
        words: what words add beside the base and beside the collection's best expert (n, 2, W); see
            :class:`routerretriever.routing.word_gains.WordGains`. ``None`` if it was not measured.
        relevance: judged hits of its queries; see
            :class:`routerretriever.routing.relevance.RelevanceTable`. ``None`` if there are none.
        training_queries: texts of a sample of the training queries (m,).
        training_embeddings: their route embeddings (m, d).
        generated: whether there are generated queries among ``queries``.
        source: what those were generated from, if known.
    """

    collection: str
    queries: tuple[str, ...]
    embeddings: Vectors
    gains: NDArray[np.float32]
    training_queries: tuple[str, ...]
    training_embeddings: Vectors
    generated: bool = False
    source: str = ""
    pilot_gains: NDArray[np.float32] | None = None
    words: WordGains | None = None
    relevance: NDArray[np.float32] | None = None

    def for_pilots(self) -> Measurement:
        """Return the measurement with the gains that pilots carry."""
        if self.pilot_gains is None:
            return self
        return replace(self, gains=self.pilot_gains)

    def without_expert(self, column: int) -> Measurement:
        """Return the measurement without one expert."""
        pilot_gains = None
        if self.pilot_gains is not None:
            pilot_gains = np.delete(self.pilot_gains, column, axis=1)
        return replace(self, gains=np.delete(self.gains, column, axis=1), pilot_gains=pilot_gains)


def stale_experts(library: PilotLibrary, versions: Mapping[str, str]) -> list[str]:
    """Return the experts whose gains were measured with another adapter than their present one."""
    return [name for name, version in library.versions.items() if versions.get(name, version) != version]


def without_stale(library: PilotLibrary, versions: Mapping[str, str]) -> PilotLibrary:
    """Return the library without the columns of such experts."""
    stale = stale_experts(library, versions)
    kept = [name for name in library.experts if name not in stale]
    return library.with_experts(kept)


def extend_library(
    library: PilotLibrary,
    measurements: Sequence[Measurement],
    *,
    partition: str = "cluster",
    pilots_per_collection: int = PILOTS_PER_COLLECTION,
    training_pilots: int = TRAINING_PILOTS,
) -> PilotLibrary:
    """Return the library with pilots of measured queries, in place of those of the same collections.

    Args:
        library: is extended; its columns are those of the measurements.
        measurements: one for each collection.
        partition: ``cluster`` (k-means), or ``best-expert`` as in the paper.
        pilots_per_collection: at most this many measured pilots of a collection.
        training_pilots: at most this many pilots without gains of a collection.
    """
    for measured in measurements:
        library = library.without_collection(measured.collection)
        if measured.generated:
            library = replace(library, generated={**library.generated, measured.collection: measured.source})
        if partition == "best-expert":
            library = library.extended(pilots_of(library.experts, measured, best_expert(measured)))
            continue
        pilots = measured_pilots(library.experts, measured, pilots_per_collection)
        library = library.extended(pilots).extended(
            _training_pilots(library.experts, measured, training_pilots)
        )
    return _with_relevance(library.fitted(), measurements)


def _with_relevance(library: PilotLibrary, measurements: Sequence[Measurement]) -> PilotLibrary:
    samples = {} if library.relevance is None else dict(library.relevance.samples)
    for measured in measurements:
        samples.pop(measured.collection, None)
        if measured.relevance is not None:
            samples[measured.collection] = measured.relevance
    return replace(library, relevance=fit_relevance(samples))


def measured_pilots(
    experts: tuple[str, ...], measured: Measurement, limit: int = PILOTS_PER_COLLECTION
) -> PilotLibrary:
    """Return at most ``limit`` pilots of measured queries: one for each query, or k-means centroids."""
    return pilots_of(experts, measured.for_pilots(), cluster(measured, limit))


def cluster(measured: Measurement, limit: int) -> NDArray[np.int64]:
    """Return a group for each query: k-means on the embeddings, at most ``limit`` groups."""
    if len(measured.queries) <= limit:
        return np.arange(len(measured.queries))
    clusters = KMeans(limit, n_init=1, random_state=0).fit_predict(measured.embeddings)
    return np.asarray(clusters, np.int64)


def best_expert(measured: Measurement) -> NDArray[np.int64]:
    """Return a group for each query: the expert with the largest gain."""
    return np.asarray(measured.gains.argmax(axis=1), np.int64)


def pilots_of(experts: tuple[str, ...], measured: Measurement, groups: NDArray[np.int64]) -> PilotLibrary:
    """Return the library whose pilots are the means of the groups."""
    present, numbers = np.unique(groups, return_inverse=True)
    members = [np.flatnonzero(groups == group) for group in present]
    gains = mean_by_group(measured.gains, np.ones(len(groups), np.int64), numbers)
    centroids = unit_rows(np.stack([measured.embeddings[rows].mean(axis=0) for rows in members]))
    # The example of a pilot is the query nearest to its centroid.
    examples = []
    for rows, centroid in zip(members, centroids, strict=True):
        nearest = rows[np.argmax(measured.embeddings[rows] @ centroid)]
        examples.append(measured.queries[nearest])
    return PilotLibrary(
        experts=experts,
        centroids=centroids.astype(np.float32),
        gains=np.stack(gains).astype(np.float32),
        counts=np.array([len(rows) for rows in members], np.int64),
        sources=(measured.collection,) * len(members),
        examples=tuple(examples),
        words=_mean_words(measured, members),
    )


def _mean_words(measured: Measurement, members: list[NDArray[np.intp]]) -> WordGains | None:
    if measured.words is None:
        return None
    values = np.stack([measured.words.values[rows].mean(axis=0) for rows in members])
    return replace(measured.words, values=values.astype(np.float32))


def _training_pilots(experts: tuple[str, ...], measured: Measurement, limit: int) -> PilotLibrary:
    rows = min(limit, len(measured.training_queries))
    return PilotLibrary(
        experts=experts,
        centroids=measured.training_embeddings[:rows],
        gains=np.full((rows, len(experts)), np.nan, np.float32),
        counts=np.ones(rows, np.int64),
        sources=(measured.collection,) * rows,
        examples=measured.training_queries[:rows],
    )
