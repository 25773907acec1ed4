"""Build the pilot library: measure what every expert gains on held-out queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from routerretriever.collection import Collection, Split
from routerretriever.errors import LibraryError
from routerretriever.evaluation import ndcg_at_10
from routerretriever.pilots import PilotLibrary
from routerretriever.progress import Progress, Silent
from routerretriever.queries import EncodedQueries
from routerretriever.vectors import Vectors

if TYPE_CHECKING:
    from routerretriever.model import RouterRetriever

PILOTS_PER_COLLECTION = 500
TRAINING_PILOTS = 1000
"""Training queries of a collection that are kept as pilots without gains."""


@dataclass(frozen=True, slots=True, eq=False)
class Measurement:
    """One collection's held-out queries, as the router will see them.

    Attributes:
        collection: its name.
        queries: texts (n,).
        embeddings: route embeddings (n, d).
        gains: nDCG@10 of every expert minus that of the base (n, E).
        training_queries: texts of a sample of the training queries (m,).
        training_embeddings: their route embeddings (m, d).
        generated: whether there are generated queries among ``queries``.
        source: what those were generated from, if that is known.
    """

    collection: str
    queries: tuple[str, ...]
    embeddings: Vectors
    gains: NDArray[np.float32]
    training_queries: tuple[str, ...]
    training_embeddings: Vectors
    generated: bool = False
    source: str = ""


def build_library(
    model: RouterRetriever,
    collections: Sequence[Collection],
    *,
    partition: str = "cluster",
    pilots_per_collection: int = PILOTS_PER_COLLECTION,
    progress: Progress | None = None,
) -> PilotLibrary:
    """Measure every expert on the collections' held-out queries and form pilots.

    Pilots of these collections are replaced; pilots of others stay as they are.

    Args:
        model: its experts are the columns.
        collections: each needs a train split; dev, or a held-out part of train, is measured.
        partition: ``"cluster"`` (k-means, at most ``pilots_per_collection`` pilots, a pilot per query where
            there are fewer; and up to ``TRAINING_PILOTS`` training queries) or ``"best-expert"`` (the
            paper's Algorithm 1: one centroid for the queries of a collection whose best expert is the
            same; ties go to the first).

    Raises:
        LibraryError: the model has no experts, or two collections share a name.
        CollectionError: a collection has no train split.
    """
    progress = progress or Silent()
    if not model.experts:
        raise LibraryError("The model has no experts yet. Train one first: routerretriever train MODEL COLLECTION")
    names = [collection.name for collection in collections]
    if len(set(names)) < len(names):
        raise LibraryError(f"Two collections share a name: {', '.join(names)}. Rename one of the folders.")
    library = model.library or PilotLibrary.empty(model.encoder.route_dimension, tuple(model.experts))
    library = without_stale(library, versions_of(model)).with_experts(tuple(model.experts))
    measurements = [measure_gains(model, collection, progress=progress) for collection in collections]
    built = extend_library(library, measurements, partition=partition, pilots_per_collection=pilots_per_collection)
    return replace(built, versions=versions_of(model))


def versions_of(model: RouterRetriever) -> dict[str, str]:
    """Expert → fingerprint of its adapter."""
    return {name: adapter.fingerprint for name, adapter in model.encoder.experts.items()}


def stale_experts(library: PilotLibrary, versions: Mapping[str, str]) -> list[str]:
    """The experts whose gains were measured with another adapter than the one they have now."""
    return [name for name, version in library.versions.items() if versions.get(name, version) != version]


def without_stale(library: PilotLibrary, versions: Mapping[str, str]) -> PilotLibrary:
    """The library without the columns that no longer hold."""
    stale = stale_experts(library, versions)
    return library.with_experts(tuple(name for name in library.experts if name not in stale))


def extend_library(
    library: PilotLibrary,
    measurements: Sequence[Measurement],
    *,
    partition: str = "cluster",
    pilots_per_collection: int = PILOTS_PER_COLLECTION,
    training_pilots: int = TRAINING_PILOTS,
) -> PilotLibrary:
    """Form pilots of measured queries; see :func:`build_library`."""
    for measured in measurements:
        library = library.without_collection(measured.collection)
        if measured.generated:
            library = replace(library, generated={**library.generated, measured.collection: measured.source})
        if partition == "best-expert":
            library = library.extended(_pilots(library.experts, measured, _best_expert(measured)))
            continue
        pilots = measured_pilots(library.experts, measured, pilots_per_collection)
        library = library.extended(pilots).extended(_training_pilots(library.experts, measured, training_pilots))
    return library.fitted()


def measure_gains(
    model: RouterRetriever,
    collection: Collection,
    *,
    split: Split | None = None,
    queries: EncodedQueries | None = None,
    progress: Progress | None = None,
) -> Measurement:
    """What every expert gains on queries that it was not trained on (default: the held-out ones).

    ``queries`` are those of the split, where they have been encoded already.
    """
    progress = progress or Silent()
    documents = model.embed_collection(collection, progress=progress)
    split = split or collection.train_and_held_out()[1]
    texts = list(split.queries.values())
    queries = queries or EncodedQueries.of(model.encoder, texts, model.query_prompt)

    def measure(expert: str) -> NDArray[np.float64]:
        vectors = queries.vectors(model.encoder.pinned_plan(expert))
        return ndcg_at_10(vectors, split, documents, collection, model.similarity_fn_name)

    with progress.task(f"measure {collection.name}", 1 + len(model.experts)) as task:
        base = measure("base")
        task.advance()
        gains = np.empty((len(texts), len(model.experts)), np.float32)
        for column, expert in enumerate(model.experts):
            gains[:, column] = measure(expert) - base
            task.advance(1, expert)
    training = training_sample(collection)
    return Measurement(
        collection.name,
        tuple(texts),
        queries.route_embeddings(),
        gains,
        training,
        model.route_embeddings(training),
        any(query_id in collection.generated for query_id in split.queries),
        collection.source,
    )


def training_sample(collection: Collection) -> tuple[str, ...]:
    """The training queries that become pilots without gains."""
    return tuple(collection.train_and_held_out()[0].sample(TRAINING_PILOTS).queries.values())


def measured_pilots(
    experts: tuple[str, ...], measured: Measurement, limit: int = PILOTS_PER_COLLECTION
) -> PilotLibrary:
    """At most ``limit`` pilots of measured queries: a pilot for each, or k-means centroids."""
    return _pilots(experts, measured, _cluster(measured, limit))


def _cluster(measured: Measurement, limit: int) -> NDArray[np.int64]:
    if len(measured.queries) <= limit:
        return np.arange(len(measured.queries))
    clusters = KMeans(limit, n_init=1, random_state=0).fit_predict(measured.embeddings)
    return np.asarray(clusters, np.int64)


def _best_expert(measured: Measurement) -> NDArray[np.int64]:
    return np.asarray(measured.gains.argmax(axis=1), np.int64)


def _pilots(experts: tuple[str, ...], measured: Measurement, groups: NDArray[np.int64]) -> PilotLibrary:
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    centroids = np.stack([measured.embeddings[rows].mean(axis=0) for rows in members])
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    nearest = [
        rows[int(np.argmax(measured.embeddings[rows] @ centroid))]
        for rows, centroid in zip(members, centroids, strict=True)
    ]
    return PilotLibrary(
        experts,
        centroids.astype(np.float32),
        np.stack([measured.gains[rows].mean(axis=0) for rows in members]).astype(np.float32),
        np.array([len(rows) for rows in members], np.int64),
        (measured.collection,) * len(members),
        tuple(measured.queries[row] for row in nearest),
    )


def _training_pilots(experts: tuple[str, ...], measured: Measurement, limit: int) -> PilotLibrary:
    rows = min(limit, len(measured.training_queries))
    return PilotLibrary(
        experts,
        measured.training_embeddings[:rows],
        np.full((rows, len(experts)), np.nan, np.float32),
        np.ones(rows, np.int64),
        (measured.collection,) * rows,
        measured.training_queries[:rows],
    )
