"""Runs and measures.

Every figure comes from ``ir_measures`` (trec_eval underneath), so it can be compared with others'.
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
from routerretriever.encoder.protocol import RoutedModel
from routerretriever.encoder.query_batch import EncodedQueries
from routerretriever.errors import CollectionError
from routerretriever.evaluation.runs import GAIN_MEASURE, MEASURES, Run, measure_run, search_run
from routerretriever.evaluation.statistics import bootstrap_interval, paired_p_value
from routerretriever.progress import Progress, Silent


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


@dataclass(frozen=True, slots=True)
class CollectionResult:
    """All systems on one collection, and how often the router chose each candidate."""

    name: str
    split: Split
    systems: Mapping[str, SystemScores]
    chosen: Mapping[str, int]

    def summary(self) -> dict[str, Any]:
        """Means, confidence intervals and significance, as plain data."""
        base = self.systems["base"].values[GAIN_MEASURE]
        systems: dict[str, Any] = {}
        for name, scores in self.systems.items():
            values = scores.values[GAIN_MEASURE]
            systems[name] = {measure: float(column.mean()) for measure, column in scores.values.items()}
            systems[name]["ci95"] = bootstrap_interval(values)
            systems[name]["p_vs_base"] = paired_p_value(values, base)
            systems[name]["helped"] = float((values > base).mean())
            systems[name]["hurt"] = float((values < base).mean())
        return {"queries": len(self.split), "split": self.split.name, "systems": systems, "chosen": dict(self.chosen)}


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
        return float(np.mean([result.systems[system].mean(measure) for result in self.collections]))

    def to_dict(self) -> dict[str, Any]:
        """The document that ``evaluate --json`` prints."""
        return {
            "collections": {result.name: result.summary() for result in self.collections},
            "mean": {system: {measure: self.mean(system, measure) for measure in MEASURES} for system in self.systems},
        }


def evaluate(
    model: RoutedModel,
    collections: Sequence[Collection],
    *,
    split: str = "test",
    limit: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Compare base, routed, merged, every single expert and the two oracles.

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
    splits = [collection.split(split).sample(limit, seed) for collection in collections]
    progress = progress or Silent()
    results = [
        _evaluate_one(model, collection, part, progress) for collection, part in zip(collections, splits, strict=True)
    ]
    return Evaluation(tuple(results))


def _evaluate_one(model: RoutedModel, collection: Collection, split: Split, progress: Progress) -> CollectionResult:
    documents = model.embed_collection(collection, progress=progress)
    texts = list(split.queries.values())
    queries = EncodedQueries.of(model.encoder, texts, model.query_prompt)
    pinned = {"base": "base", "routed": None, "merged": "merged"} | {f"expert:{name}": name for name in model.experts}
    systems: dict[str, SystemScores] = {}
    with progress.task(f"evaluate {collection.name}", len(pinned)) as task:
        for system, expert in pinned.items():
            if expert is None:  # the product's own path from text to vector
                vectors = model.encode_query(texts, batch_size=64)
            else:
                vectors = queries.vectors(model.encoder.pinned_plan(expert))
            run = search_run(vectors, split, documents, collection, similarity=model.similarity_fn_name)
            systems[system] = SystemScores(measure_run(run, split), run)
            task.advance(1, system)
    systems |= oracles(systems)
    chosen = Counter(route.expert for route in model.route(texts, n_pilots=0)) if model.library else Counter()
    return CollectionResult(collection.name, split, systems, dict(chosen.most_common()))


def oracles(systems: Mapping[str, SystemScores]) -> dict[str, SystemScores]:
    """Upper bounds chosen with the judgements: the best single candidate per collection and per query."""
    single = [scores for name, scores in systems.items() if name == "base" or name.startswith("expert:")]
    best = max(single, key=SystemScores.mean)
    ndcg = np.stack([scores.values[GAIN_MEASURE] for scores in single])
    choice = ndcg.argmax(axis=0)
    instance = {
        measure: np.stack([scores.values[measure] for scores in single])[choice, np.arange(len(choice))]
        for measure in MEASURES
    }
    return {"dataset_oracle": SystemScores(best.values), "instance_oracle": SystemScores(instance)}
