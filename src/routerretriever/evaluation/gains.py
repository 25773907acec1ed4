"""Build the pilot library: measure what every expert gains on held-out queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from routerretriever.data.collection import Collection
from routerretriever.data.splits import Split
from routerretriever.encoder.document_vectors import DocumentVectors
from routerretriever.encoder.protocol import RoutedModel
from routerretriever.encoder.query_batch import PreparedQueries, prepare_queries
from routerretriever.errors import LibraryError
from routerretriever.evaluation.hybrid_runs import HybridRanker, words_of
from routerretriever.evaluation.runs import ndcg_at_10
from routerretriever.evaluation.unselected import unselected_gains
from routerretriever.progress import Progress, Silent
from routerretriever.routing.candidates import BASE
from routerretriever.routing.form_pilots import (
    PILOTS_PER_COLLECTION,
    TRAINING_PILOTS,
    Measurement,
    extend_library,
    without_stale,
)
from routerretriever.routing.pilot_library import PilotLibrary
from routerretriever.routing.word_gains import WordGains

CALIBRATION_QUERIES = 500
"""Held-out queries of a collection that the calibration of relevance reads."""


def build_library(
    model: RoutedModel,
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
        collections: each needs a train split; dev, or a held-out part of train, is
            measured.
        partition: ``"cluster"`` (k-means, at most ``pilots_per_collection`` pilots, a
            pilot per query where there are fewer; and up to ``TRAINING_PILOTS``
            training queries) or ``"best-expert"`` (the paper's Algorithm 1: one
            centroid for the queries of a collection whose best expert is the same; ties
            go to the first).

    Raises:
        LibraryError: the model has no experts, or two collections share a name.
        CollectionError: a collection has no train split.
    """
    progress = progress or Silent()
    if not model.experts:
        raise LibraryError(
            "The model has no experts yet. Train one first: routerretriever train MODEL COLLECTION"
        )
    names = [collection.name for collection in collections]
    if len(set(names)) < len(names):
        raise LibraryError(f"Two collections share a name: {', '.join(names)}. Rename one of the folders.")
    library = model.library or PilotLibrary.empty(model.encoder.route_dimension, tuple(model.experts))
    library = without_stale(library, model.state.versions).with_experts(tuple(model.experts))
    measurements = []
    for collection in collections:
        measurements.append(measure_gains(model, collection, progress=progress))
    built = extend_library(
        library, measurements, partition=partition, pilots_per_collection=pilots_per_collection
    )
    return replace(built, versions=model.state.versions)


def measure_gains(
    model: RoutedModel,
    collection: Collection,
    *,
    split: Split | None = None,
    queries: PreparedQueries | None = None,
    documents: DocumentVectors | None = None,
    progress: Progress | None = None,
) -> Measurement:
    """What every expert gains on queries that it was not trained on (default: the held-out ones).

    ``queries`` are those of the split, and ``documents`` the collection's, where they
    have been encoded already.
    """
    progress = progress or Silent()
    if documents is None:
        documents = model.embed_collection(collection, progress=progress)
    split = split or collection.train_and_held_out()[1]
    texts = list(split.queries.values())
    queries = queries or prepare_queries(model.encoder, texts, model.query_prompt)
    experts, similarity = tuple(model.experts), model.similarity_fn_name

    with progress.task(f"measure {collection.name}", 2 + len(experts)) as task:
        vectors, values = {}, {}
        for candidate in (BASE, *experts):
            vectors[candidate] = queries.vectors(model.encoder.pinned_plan(candidate))
            values[candidate] = ndcg_at_10(vectors[candidate], split, documents, collection, similarity)
            task.advance(1, candidate)
        gains = np.stack([values[expert] - values[BASE] for expert in experts], axis=1).astype(np.float32)

        best = experts[int(gains.mean(axis=0).argmax())]
        found = words_of(collection, split, documents)
        rankers = [
            HybridRanker.of(vectors[candidate], found, split, documents, collection, similarity=similarity)
            for candidate in (BASE, best)
        ]
        beside = np.stack([ranker.gains() for ranker in rankers], axis=1)
        samples = np.stack([ranker.samples()[:CALIBRATION_QUERIES] for ranker in rankers])
        task.advance(1, "words")
    training = training_sample(collection)
    return Measurement(
        collection=collection.name,
        queries=tuple(texts),
        embeddings=queries.route_embeddings(),
        gains=gains,
        pilot_gains=unselected_gains(gains, model.state.infos.values(), collection, split),
        words=WordGains(values=beside, experts={collection.name: best}),
        relevance=samples,
        training_queries=training,
        training_embeddings=model.route_embeddings(training),
        generated=any(query_id in collection.generated for query_id in split.queries),
        source=collection.source,
    )


def training_sample(collection: Collection) -> tuple[str, ...]:
    """The training queries that become pilots without gains."""
    return tuple(collection.train_and_held_out()[0].sample(TRAINING_PILOTS).queries.values())
