"""Run a suite: train what is missing, encode once, evaluate every system, write everything down.

Everything that took time is a file below the output folder, so a run that was killed goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from routerretriever.bench.bm25 import bm25_ranking
from routerretriever.bench.catalogue import MULTI_TASKS, SYSTEMS
from routerretriever.bench.data import Candidate, Queries, QuerySet, prepare
from routerretriever.bench.studies import STUDIES, StudyResult
from routerretriever.bench.suite import Suite
from routerretriever.bench.systems import BM25, MULTI_TASK, Known, Oracle, Routed, outcome
from routerretriever.data.collection import Collection
from routerretriever.data.splits import Split
from routerretriever.encoder.query_batch import EncodedQueries
from routerretriever.evaluation.gains import training_sample
from routerretriever.experts.train import train_expert
from routerretriever.experts.training_config import TrainingConfig
from routerretriever.kernels.exact_search import Vectors
from routerretriever.lora.adapter import Adapter
from routerretriever.model import RouterRetriever
from routerretriever.progress import Progress, Silent

_TRAIN_SAMPLE = 100  # training queries a collection that DatasetRouter keeps (arXiv 2409.02685, A.1)


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """Every query of one seed with every candidate: held-out and test, by collection."""

    held_out: Mapping[str, QuerySet]
    test: Mapping[str, QuerySet]
    train_sample: Mapping[str, Vectors]


@dataclass(frozen=True, slots=True, eq=False)
class SeedResult:
    """What the systems of one seed did.

    Attributes:
        outcomes: system → collection → ranking and values.
        chosen: collection → candidate of the default router → number of queries.
        predicted, measured: predicted and measured gain of every query sent to an expert.
        in_domain_scores: collection → in-domain score of each of its test queries.
    """

    outcomes: Mapping[str, Mapping[str, Candidate]]
    chosen: Mapping[str, Mapping[str, int]]
    predicted: np.ndarray[tuple[int], np.dtype[np.float64]]
    measured: np.ndarray[tuple[int], np.dtype[np.float64]]
    in_domain_scores: Mapping[str, np.ndarray[tuple[int], np.dtype[np.float64]]]


@dataclass(slots=True)
class Bench:
    """One suite and its output folder.

    Args:
        suite: what to run.
        out: models, cached vectors and results go below it.
    """

    suite: Suite
    out: Path
    progress: Progress = field(default_factory=Silent)
    collections: dict[str, Collection] = field(init=False)
    _models: dict[int, RouterRetriever] = field(default_factory=dict)
    _prepared: dict[int, Prepared] = field(default_factory=dict)
    _encoded: dict[tuple[str, str], EncodedQueries] = field(default_factory=dict)
    _training: dict[str, Queries] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.collections = self.suite.load_collections()

    @property
    def experts(self) -> list[Collection]:
        """The collections with an expert."""
        return [self.collections[name] for name in self.suite.experts]

    # -- models ------------------------------------------------------------------------------------

    def create(self, **settings: Any) -> RouterRetriever:
        """A model of the suite's base and preset, without experts."""
        if self.suite.preset == "paper":
            return RouterRetriever.create_like_paper(self.suite.base)
        return RouterRetriever.create(self.suite.base, **settings)

    def model(self, seed: int) -> RouterRetriever:
        """The model with all experts of one seed; trains the missing ones."""
        if seed not in self._models:
            config = self.suite.training_config(seed)
            jobs = {name: [self.collections[name]] for name in self.suite.experts}
            self._models[seed] = self.trained(f"seed-{seed}", {n: (c, config) for n, c in jobs.items()})
        return self._models[seed]

    def rivals(self, seed: int, names: Sequence[str]) -> dict[str, RouterRetriever]:
        """The multi-task adapters of one seed, each in a model of its own."""
        config = self.suite.multi_task_config(seed)
        smallest = min(len(collection.train_and_held_out()[0]) for collection in self.experts)
        rank = config.rank * len(self.experts)
        configs = dict(
            zip(
                MULTI_TASKS,
                # α grows with the rank, so that the update's scale stays the same.
                (config, replace(config, max_queries=smallest), replace(config, rank=rank, alpha=4.0 * rank)),
                strict=True,
            )
        )
        return {name: self.trained(f"seed-{seed}-{name}", {name: (self.experts, configs[name])}) for name in names}

    def trained(
        self,
        folder: str,
        jobs: Mapping[str, tuple[Sequence[Collection], TrainingConfig]],
        *,
        start: str | None = None,
        **settings: Any,
    ) -> RouterRetriever:
        """A model with one expert a job, read from ``folder`` as far as it was trained so already.

        ``start`` is another such folder that a new model begins as.
        """
        path = self.out / "models" / folder
        source = path if path.exists() or start is None else self.out / "models" / start
        model = RouterRetriever.from_pretrained(source) if source.exists() else self.create(**settings)
        for name, (collections, config) in jobs.items():
            if name in model.experts and model.experts[name].config == _as_saved(config):
                continue
            train_expert(model, collections, name=name, config=config, force=True, progress=self.progress)
            model.save_pretrained(path)
        return model

    # -- queries -----------------------------------------------------------------------------------

    def test_split(self, name: str) -> Split:
        """The test queries of a collection, as many as the suite wants."""
        return self.collections[name].split("test").sample(self.suite.limit(name), 0)

    def prepare(self, seed: int) -> Prepared:
        """All queries of one seed."""
        if seed not in self._prepared:
            needed = {need for name in self.suite.systems for need in SYSTEMS[name]().needs}
            rivals = self.rivals(seed, [name for name in MULTI_TASKS if name in needed])
            model = self.model(seed)
            if generalist := rivals.pop(MULTI_TASK, None):
                model = self.with_adapters(model, {MULTI_TASK: generalist.state.experts[MULTI_TASK]})
            prepared = self.prepare_with(model, seed, self.suite.experts, rivals)
            if BM25 in needed:
                for queries in prepared.test.values():
                    queries.candidates[BM25] = queries.measure(bm25_ranking(queries))
            self._prepared[seed] = prepared
        return self._prepared[seed]

    def prepare_with(
        self,
        model: RouterRetriever,
        seed: int,
        experts: Sequence[str],
        rivals: Mapping[str, RouterRetriever] | None = None,
    ) -> Prepared:
        """All queries under a model's adapters, some of which are the experts that count."""
        own = {c.name: c.train_and_held_out() for c in self.experts if c.name in experts}
        test = {
            name: self.query_set(model, experts, collection, self.test_split(name), rivals)
            for name, collection in self.collections.items()
        }
        held_out = {}
        for name, splits in own.items():
            queries = self.query_set(model, experts, self.collections[name], splits[1], rivals)
            held_out[name] = replace(queries, training=self.training_queries(self.collections[name]))
        sample = {
            name: model.route_embeddings(list(splits[0].sample(_TRAIN_SAMPLE, seed).queries.values()))
            for name, splits in own.items()
        }
        return Prepared(held_out, test, sample)

    def query_set(
        self,
        model: RouterRetriever,
        experts: Sequence[str],
        collection: Collection,
        split: Split,
        rivals: Mapping[str, RouterRetriever] | None = None,
    ) -> QuerySet:
        """Queries of one collection with every candidate, from the cache where it has them."""
        encoded = self.encoded(collection, split)
        return prepare(model, experts, rivals or {}, collection, split, encoded, self.out / "vectors", self.progress)

    def encoded(self, collection: Collection, split: Split) -> EncodedQueries:
        """Queries at the branch layer, which is the same for all models of the suite."""
        key = (collection.name, split.name)
        if key not in self._encoded:
            plain = self.model(self.suite.seeds[0])
            self._encoded[key] = EncodedQueries.of(plain.encoder, list(split.queries.values()), plain.query_prompt)
        return self._encoded[key]

    def training_queries(self, collection: Collection) -> Queries:
        """Training queries that become pilots."""
        if collection.name not in self._training:
            texts = training_sample(collection)
            embeddings = self.model(self.suite.seeds[0]).route_embeddings(texts)
            self._training[collection.name] = Queries(texts, embeddings)
        return self._training[collection.name]

    def with_adapters(self, model: RouterRetriever, adapters: Mapping[str, Adapter]) -> RouterRetriever:
        """A copy of a model with more adapters."""
        copy = self.create()
        for name, adapter in {**model.state.experts, **adapters}.items():
            copy.add_expert(name, adapter)
        return copy

    # -- evaluation --------------------------------------------------------------------------------

    def run(self) -> dict[int, SeedResult]:
        """Every seed's results."""
        prepared = {seed: self.prepare(seed) for seed in self.suite.seeds}
        return {seed: self.evaluate(seed, prepared) for seed in self.suite.seeds}

    def studies(self) -> list[StudyResult]:
        """Every study of the suite, with its first seed."""
        seed = self.suite.seeds[0]
        return [STUDIES[name](self, seed, **dict(settings or {})) for name, settings in self.suite.studies.items()]

    def evaluate(self, seed: int, prepared: Mapping[int, Prepared]) -> SeedResult:
        """Fit every system on held-out queries and try it on the test queries."""
        own = prepared[seed]
        others = [value for key, value in prepared.items() if key != seed]
        known = make_known(own, self.suite.experts)
        outcomes: dict[str, dict[str, Candidate]] = {}
        with self.progress.task(f"systems, seed {seed}", len(self.suite.systems)) as task:
            for name in self.suite.systems:
                system = SYSTEMS[name]()
                if isinstance(system, Oracle) and name.endswith("-controlled") and not others:
                    task.advance(1)
                    continue  # it needs experts of another seed
                system.fit(known)
                outcomes[name] = {
                    collection: outcome(system, queries, [other.test[collection] for other in others])
                    for collection, queries in own.test.items()
                }
                task.advance(1, name)
        for expert in self.suite.experts:
            outcomes[f"expert:{expert}"] = {name: queries.candidates[expert] for name, queries in own.test.items()}
        return SeedResult(outcomes, **_routing_facts(known, own))


def _as_saved(config: TrainingConfig) -> dict[str, Any]:
    """A configuration as it comes back from an expert's file."""
    content: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return content


def make_known(prepared: Prepared, experts: Sequence[str], **limits: int) -> Known:
    """What routers are fitted on; test queries are not within reach."""
    names = tuple(experts)
    held_out = list(prepared.held_out.values())
    has_generalist = all(MULTI_TASK in queries.candidates for queries in held_out)
    return Known(
        experts=names,
        measurements=tuple(queries.measurement(names) for queries in held_out),
        generalist=tuple(q.measurement((*names, MULTI_TASK)) for q in held_out) if has_generalist else (),
        train_sample=prepared.train_sample,
        **limits,
    )


def _routing_facts(known: Known, prepared: Prepared) -> dict[str, Any]:
    """How often the default router chose what, and how far its predictions hold."""
    router = Routed()
    router.fit(known)
    names = router.policy.candidates
    chosen: dict[str, dict[str, int]] = {}
    in_domain_scores, predicted, measured = {}, [], []
    for name, queries in prepared.test.items():
        decision = router.decision(queries.queries)
        columns = decision.chosen.numpy()
        counts = np.bincount(columns, minlength=len(names))
        chosen[name] = {names[column]: int(counts[column]) for column in np.argsort(-counts) if counts[column]}
        in_domain_scores[name] = decision.in_domain_scores.numpy().astype(float)
        rows = np.flatnonzero((columns >= 2) & (decision.adapter_weights.numpy() >= 1))
        gains = queries.measurement(known.experts).gains
        predicted.append(decision.scores.numpy()[rows, columns[rows]])
        measured.append(gains[rows, columns[rows] - 2])
    return {
        "chosen": chosen,
        "in_domain_scores": in_domain_scores,
        "predicted": np.concatenate(predicted).astype(float),
        "measured": np.concatenate(measured).astype(float),
    }
