"""Runs and measures.

Every figure comes from ``ir_measures`` (trec_eval underneath), so it can be compared with others'.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ir_measures
import numpy as np
from ir_measures import RR, R, nDCG
from numpy.typing import NDArray
from scipy import stats

from routerretriever.collection import Collection, Split
from routerretriever.errors import CollectionError
from routerretriever.progress import Progress, Silent
from routerretriever.queries import EncodedQueries
from routerretriever.vectors import Vectors, top_k

if TYPE_CHECKING:
    from routerretriever.model import RouterRetriever

MEASURES = {"nDCG@10": nDCG @ 10, "R@100": R @ 100, "RR@10": RR @ 10}
GAIN_MEASURE = "nDCG@10"

Run = dict[str, dict[str, float]]
"""Query id → document id → score."""


def search_run(
    vectors: Vectors,
    split: Split,
    documents: Vectors,
    collection: Collection,
    *,
    depth: int = 100,
    similarity: str = "cosine",
) -> Run:
    """Rank a collection's documents for every query of a split.

    Args:
        vectors: query vectors (n, d), in the order of ``split.queries``.
        documents: document vectors (m, d), in the order of ``collection.documents``.
        depth: results kept for each query.
    """
    spare = 1 if collection.ignore_identical_ids else 0
    found = top_k(vectors, documents, depth + spare, similarity)
    ids = collection.document_ids
    run: Run = {}
    for query_id, scores, columns in zip(split.queries, found.scores.tolist(), found.columns.tolist(), strict=True):
        ranked = {ids[column]: score for score, column in zip(scores, columns, strict=True)}
        if collection.ignore_identical_ids:
            ranked.pop(query_id, None)
        run[query_id] = dict(list(ranked.items())[:depth])
    return run


def measure_run(run: Run, split: Split, measures: Sequence[str] = tuple(MEASURES)) -> dict[str, NDArray[np.float64]]:
    """Measure name → one value per query, in the order of ``split.queries``."""
    row = {query_id: index for index, query_id in enumerate(split.queries)}
    values = {name: np.zeros(len(row)) for name in measures}
    by_measure = {str(MEASURES[name]): name for name in measures}
    wanted = [MEASURES[name] for name in measures]
    for metric in ir_measures.iter_calc(wanted, _plain(split.qrels), run):
        values[by_measure[str(metric.measure)]][row[metric.query_id]] = metric.value
    return values


def _plain(qrels: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    return {query_id: dict(grades) for query_id, grades in qrels.items()}


def ndcg_at_10(
    vectors: Vectors, split: Split, documents: Vectors, collection: Collection, similarity: str = "cosine"
) -> NDArray[np.float64]:
    """nDCG@10 of every query, in the order of ``split.queries``: the measure that gains are made of."""
    run = search_run(vectors, split, documents, collection, depth=10, similarity=similarity)
    return measure_run(run, split, (GAIN_MEASURE,))[GAIN_MEASURE]


# -- the whole comparison --------------------------------------------------------------------------


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
    model: RouterRetriever,
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


def _evaluate_one(model: RouterRetriever, collection: Collection, split: Split, progress: Progress) -> CollectionResult:
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


def bootstrap_interval(values: NDArray[np.float64], resamples: int = 2000) -> list[float]:
    """95% percentile bootstrap interval of the mean over queries."""
    if len(values) < 2 or np.ptp(values) == 0:
        return [float(values.mean())] * 2
    interval = stats.bootstrap(
        (values,), np.mean, n_resamples=resamples, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return [float(interval.low), float(interval.high)]


def paired_p_value(values: NDArray[np.float64], base: NDArray[np.float64], resamples: int = 9999) -> float:
    """Two-sided paired randomisation test on the mean difference (Smucker et al. 2007)."""
    difference = values - base
    if not difference.any():
        return 1.0
    test = stats.permutation_test(
        (difference,),
        lambda x, axis: x.mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=1000,
        rng=np.random.default_rng(0),
    )
    return float(test.pvalue)


def write_runs(evaluation: Evaluation, directory: Path) -> None:
    """One TREC run file for every collection and system that ranks documents."""
    directory.mkdir(parents=True, exist_ok=True)
    for result in evaluation.collections:
        for system, scores in result.systems.items():
            if not scores.run:
                continue
            tag = system.replace(":", "-")
            lines = [
                f"{query_id} Q0 {document_id} {rank} {score:.6f} {tag}\n"
                for query_id, ranked in scores.run.items()
                for rank, (document_id, score) in enumerate(ranked.items(), start=1)
            ]
            (directory / f"{result.name}.{tag}.trec").write_text("".join(lines), encoding="utf-8")
