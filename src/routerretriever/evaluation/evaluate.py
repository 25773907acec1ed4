"""Runs and measures.

Every figure comes from ``ir_measures`` (trec_eval underneath), so it can be compared
with others'.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from routerretriever.data.collection import Collection
from routerretriever.data.splits import Split
from routerretriever.encoder.document_vectors import DocumentCounts
from routerretriever.encoder.protocol import RoutedModel
from routerretriever.encoder.query_batch import prepare_queries
from routerretriever.errors import CollectionError
from routerretriever.evaluation.hybrid_runs import HybridRanker, Neighbours, Weights, settings_of, words_of
from routerretriever.evaluation.runs import GAIN_MEASURE, MEASURES, Run, measure_run, search_run
from routerretriever.evaluation.statistics import bootstrap_interval, paired_p_value
from routerretriever.kernels.vectors import Vectors
from routerretriever.progress import Progress, Silent
from routerretriever.routing.search_plan import SearchPlan
from routerretriever.words.weights import DEFAULT_WEIGHT

_BATCH = 64  # queries encoded at once


@dataclass(frozen=True, slots=True)
class SystemScores:
    """One system on one collection.

    Attributes:
        values: measure → value per query, in the order of the split's queries.
        run: the ranking, for TREC run files; empty for oracles.
    """

    values: Mapping[str, NDArray[np.float64]]
    run: Run = field(default_factory=dict)

    def mean(self, measure: str = GAIN_MEASURE) -> float:
        """Mean over queries."""
        return float(self.values[measure].mean())


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionResult:
    """All systems on one collection, how often the router chose each candidate, and how documents were read."""

    name: str
    split: Split
    systems: Mapping[str, SystemScores]
    chosen: Mapping[str, int]
    documents: DocumentCounts = field(default_factory=DocumentCounts)

    def summary(self) -> dict[str, Any]:
        """Means, confidence intervals and significance, as plain data."""
        base = self.systems["base"].values[GAIN_MEASURE]
        systems: dict[str, Any] = {}
        for name, scores in self.systems.items():
            values = scores.values[GAIN_MEASURE]
            systems[name] = {measure: scores.mean(measure) for measure in scores.values}
            systems[name]["ci95"] = bootstrap_interval(values)
            systems[name]["p_vs_base"] = paired_p_value(values, base)
            systems[name]["helped"] = float((values > base).mean())
            systems[name]["hurt"] = float((values < base).mean())
        return {
            "queries": len(self.split),
            "split": self.split.name,
            "documents": self.documents.to_dict(),
            "systems": systems,
            "chosen": dict(self.chosen),
        }


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Every system on every collection."""

    collections: tuple[CollectionResult, ...]

    @property
    def systems(self) -> tuple[str, ...]:
        """Names of the systems, in table order."""
        return tuple(self.collections[0].systems)

    def mean(self, system: str, measure: str = GAIN_MEASURE) -> float:
        """Macro mean over collections."""
        means = [result.systems[system].mean(measure) for result in self.collections]
        return float(np.mean(means))

    def to_dict(self) -> dict[str, Any]:
        """Return means, intervals and significance as plain data."""
        summaries = {}
        for result in self.collections:
            summaries[result.name] = result.summary()
        means = {}
        for system in self.systems:
            means[system] = {measure: self.mean(system, measure) for measure in MEASURES}
        return {"collections": summaries, "mean": means}


def evaluate(
    model: RoutedModel,
    collections: Sequence[Collection],
    *,
    split: str = "test",
    limit: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Compare base, routed, both with words beside, merged, every single expert and the two oracles.

    Documents longer than the base reads are ranked by their best passage, as in an
    index, except in collections that were loaded with ``cut_off=True``.

    Args:
        model: with or without experts and pilot library.
        collections: the router is not told which of them a query comes from.
        split: the queries to use.
        limit: at most this many queries a collection, chosen by ``seed``.

    Raises:
        CollectionError: a collection lacks the split, or two share a name.
    """
    names = [collection.name for collection in collections]
    if len(set(names)) < len(names) or not names:
        raise CollectionError(f"Give at least one collection, each with a name of its own (got: {names}).")

    # A missing split is reported before anything is encoded.
    splits = [collection.split(split).sample(limit, seed) for collection in collections]
    progress = progress or Silent()
    results = []
    for collection, part in zip(collections, splits, strict=True):
        results.append(_evaluate_one(model, collection, part, progress))
    return Evaluation(tuple(results))


def _evaluate_one(
    model: RoutedModel, collection: Collection, split: Split, progress: Progress
) -> CollectionResult:
    documents = model.embed_collection(collection, progress=progress)
    texts = list(split.queries.values())
    queries = prepare_queries(model.encoder, texts, model.query_prompt)
    routed, plans = _routed(model, texts)
    words = words_of(collection, split, documents)
    pinned = {"base": "base", "merged": "merged", **{f"expert:{name}": name for name in model.experts}}
    similarity = model.similarity_fn_name

    def by_vectors(vectors: Vectors) -> SystemScores:
        run = search_run(vectors, split, documents, collection, similarity=similarity)
        return SystemScores(measure_run(run, split), run)

    def by_both(vectors: Vectors, weights: Weights, neighbours: Neighbours = False) -> SystemScores:
        ranker = HybridRanker.of(vectors, words, split, documents, collection, similarity=similarity)
        run = ranker.run(weights, neighbours)
        return SystemScores(measure_run(run, split), run)

    systems: dict[str, SystemScores] = {}
    with progress.task(f"evaluate {collection.name}", 3 + len(pinned)) as task:
        for system, expert in pinned.items():
            vectors = queries.vectors(model.encoder.pinned_plan(expert))
            systems[system] = by_vectors(vectors)
            if system == "base":
                systems["hybrid"] = by_both(vectors, DEFAULT_WEIGHT)
                systems["routed"] = by_vectors(routed)
                systems["routed-hybrid"] = by_both(routed, *settings_of(plans))
                task.advance(3)
            task.advance(1, system)
    systems |= oracles(systems)

    chosen: Counter[str] = Counter()
    if model.library:
        for route in model.route(texts, n_pilots=0):
            chosen[route.expert] += 1
    return CollectionResult(
        name=collection.name,
        split=split,
        systems=systems,
        chosen=dict(chosen.most_common()),
        documents=documents.counts,
    )


def _routed(model: RoutedModel, texts: Sequence[str]) -> tuple[Vectors, list[SearchPlan]]:
    """Return routed vectors (n, d) and the plan of each query, by the product's own path."""
    batches = []
    for start in range(0, len(texts), _BATCH):
        batches.append(model.encode_routed(texts[start : start + _BATCH]))
    plans = [plan for batch in batches for plan in batch.plans]
    return np.concatenate([batch.vectors for batch in batches]), plans


def oracles(systems: Mapping[str, SystemScores]) -> dict[str, SystemScores]:
    """Return the base or the best expert, chosen with the judgements, for the collection and for each query."""
    single = []
    for name, scores in systems.items():
        if name == "base" or name.startswith("expert:"):
            single.append(scores)
    best = max(single, key=SystemScores.mean)

    # All measures of a query are those of the candidate with its best nDCG@10.
    choice = _stacked(single, GAIN_MEASURE).argmax(axis=0)
    queries = np.arange(len(choice))
    instance = {measure: _stacked(single, measure)[choice, queries] for measure in MEASURES}
    return {"dataset_oracle": SystemScores(best.values), "instance_oracle": SystemScores(instance)}


def _stacked(systems: Sequence[SystemScores], measure: str) -> NDArray[np.float64]:
    """Return the values of a measure, a row for each system and a column for each query."""
    return np.stack([scores.values[measure] for scores in systems])
