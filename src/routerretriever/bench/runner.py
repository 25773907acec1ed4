"""Run a suite: train what is missing, encode once, and evaluate each system.

All that takes time is a file below the output folder, so an interrupted run continues where it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from routerretriever.bench.catalogue import MULTI_TASKS, SYSTEMS
from routerretriever.bench.models import Job, Models
from routerretriever.bench.oracles import Oracle
from routerretriever.bench.outcome import outcome
from routerretriever.bench.prepared import Prepared, make_known
from routerretriever.bench.query_cache import prepare_query_set
from routerretriever.bench.query_set import Candidate, Queries, QuerySet
from routerretriever.bench.seed_result import SeedResult, routing_facts
from routerretriever.bench.suite import Suite
from routerretriever.bench.systems import BM25, MULTI_TASK
from routerretriever.data.collection import Collection
from routerretriever.data.splits import Split
from routerretriever.encoder.document_vectors import DocumentVectors
from routerretriever.encoder.query_batch import PreparedQueries, prepare_queries
from routerretriever.evaluation.gains import training_sample
from routerretriever.experts.training_config import TrainedKinds
from routerretriever.lora.adapter import Adapter
from routerretriever.model import RouterRetriever
from routerretriever.progress import Progress, Silent

_TRAIN_SAMPLE = 100  # training queries a collection that DatasetRouter keeps (arXiv 2409.02685, A.1)

_SeedAndKind = tuple[int, TrainedKinds | None]


@dataclass(slots=True)
class Bench:
    """One suite and its output folder.

    Args:
        suite: what to run.
        out: folder for models, cached vectors and results.
        progress: shows training, encoding and evaluation.
    """

    suite: Suite
    out: Path
    progress: Progress = field(default_factory=Silent)
    collections: dict[str, Collection] = field(init=False)
    models: Models = field(init=False)
    _models: dict[_SeedAndKind, RouterRetriever] = field(default_factory=dict)
    _prepared: dict[_SeedAndKind, Prepared] = field(default_factory=dict)
    _documents: dict[str, DocumentVectors] = field(default_factory=dict)
    _encoded: dict[tuple[str, str], PreparedQueries] = field(default_factory=dict)
    _training: dict[str, Queries] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.collections = self.suite.load_collections()
        self.models = Models(self.suite, self.out / "models", self.progress)

    @property
    def experts(self) -> list[Collection]:
        """The collections with an expert."""
        return [self.collections[name] for name in self.suite.experts]

    # -- models ------------------------------------------------------------------------------------

    def create(self, **settings: Any) -> RouterRetriever:
        """Create a model of the suite's base and preset, without experts."""
        return self.models.create(**settings)

    def model(self, seed: int, kind: TrainedKinds | None = None) -> RouterRetriever:
        """Return the model with all experts of one seed; train the missing ones.

        Args:
            seed: of the training.
            kind: of the experts; default the suite's.
        """
        config, folder = self.suite.training_config(seed), f"seed-{seed}"
        if kind == config.kind:
            kind = None
        if kind is not None:
            config, folder = replace(config, kind=kind), f"{folder}-{kind}"
        if (seed, kind) not in self._models:
            jobs: dict[str, Job] = {}
            for collection in self.experts:
                jobs[collection.name] = ([collection], config)
            self._models[seed, kind] = self.models.trained(folder, jobs)
        return self._models[seed, kind]

    def rivals(self, seed: int, names: Sequence[str]) -> dict[str, RouterRetriever]:
        """Return multi-task adapters of one seed, each in a model of its own."""
        return self.models.rivals(seed, names, self.experts)

    def trained(
        self, name: str, jobs: Mapping[str, Job], *, start: str | None = None, **settings: Any
    ) -> RouterRetriever:
        """Return a model with an expert for each job; see :meth:`Models.trained`."""
        return self.models.trained(name, jobs, start=start, **settings)

    def with_adapters(self, model: RouterRetriever, adapters: Mapping[str, Adapter]) -> RouterRetriever:
        """Return a copy of a model with more adapters."""
        return self.models.with_adapters(model, adapters)

    # -- queries -----------------------------------------------------------------------------------

    def test_split(self, name: str) -> Split:
        """Return the test queries of a collection, as many as the suite wants."""
        return self.collections[name].split("test").sample(self.suite.limit(name), 0)

    def prepare(self, seed: int, kind: TrainedKinds | None = None) -> Prepared:
        """Return all queries of one seed.

        Args:
            seed: of the training.
            kind: of the experts; default the suite's, with the other candidates of its systems.
        """
        if (seed, kind) not in self._prepared:
            if kind is None:
                prepared = self._prepare(seed)
            else:
                prepared = self.prepare_with(self.model(seed, kind), seed, self.suite.experts)
            self._prepared[seed, kind] = prepared
        return self._prepared[seed, kind]

    def _prepare(self, seed: int) -> Prepared:
        needed: set[str] = set()
        for name in self.suite.systems:
            needed.update(SYSTEMS[name]().needs)
        multi_tasks = [name for name in MULTI_TASKS if name in needed]
        rivals = self.rivals(seed, multi_tasks)
        model = self.model(seed)
        if generalist := rivals.pop(MULTI_TASK, None):
            adapter = generalist.state.experts[MULTI_TASK]
            model = self.with_adapters(model, {MULTI_TASK: adapter})
        prepared = self.prepare_with(model, seed, self.suite.experts, rivals)
        if BM25 in needed:
            for queries in prepared.test.values():
                queries.candidates[BM25] = queries.by_words()
        return prepared

    def prepare_with(
        self,
        model: RouterRetriever,
        seed: int,
        experts: Sequence[str],
        rivals: Mapping[str, RouterRetriever] | None = None,
    ) -> Prepared:
        """Return all queries under a model's adapters, of which ``experts`` are routed among."""
        test = {}
        for name, collection in self.collections.items():
            test[name] = self.query_set(model, experts, collection, self.test_split(name), rivals)
        held_out, sample = {}, {}
        for collection in self.experts:
            if collection.name not in experts:
                continue
            train, probes = collection.train_and_held_out()
            queries = self.query_set(model, experts, collection, probes, rivals)
            training = self.training_queries(collection)
            held_out[collection.name] = replace(queries, training=training)
            texts = list(train.sample(_TRAIN_SAMPLE, seed).queries.values())
            sample[collection.name] = model.route_embeddings(texts)
        return Prepared(held_out=held_out, test=test, train_sample=sample)

    def query_set(
        self,
        model: RouterRetriever,
        experts: Sequence[str],
        collection: Collection,
        split: Split,
        rivals: Mapping[str, RouterRetriever] | None = None,
    ) -> QuerySet:
        """Return queries of one collection with each candidate, from the cache if it has them."""
        return prepare_query_set(
            model=model,
            experts=experts,
            rivals=rivals or {},
            collection=collection,
            split=split,
            documents=self.documents(collection),
            encoded=self.encoded(collection, split),
            folder=self.out / "vectors",
            progress=self.progress,
        )

    def documents(self, collection: Collection) -> DocumentVectors:
        """Return the vectors of a collection's documents, which are the same for all models of the suite."""
        if collection.name not in self._documents:
            plain = self.model(self.suite.seeds[0])
            self._documents[collection.name] = plain.embed_collection(collection, progress=self.progress)
        return self._documents[collection.name]

    def encoded(self, collection: Collection, split: Split) -> PreparedQueries:
        """Return queries at the branch layer, which is the same for all models of the suite."""
        key = (collection.name, split.name)
        if key not in self._encoded:
            plain = self.model(self.suite.seeds[0])
            texts = list(split.queries.values())
            self._encoded[key] = prepare_queries(plain.encoder, texts, plain.query_prompt)
        return self._encoded[key]

    def training_queries(self, collection: Collection) -> Queries:
        """Return the training queries that become pilots."""
        if collection.name not in self._training:
            texts = training_sample(collection)
            embeddings = self.model(self.suite.seeds[0]).route_embeddings(texts)
            self._training[collection.name] = Queries(texts, embeddings)
        return self._training[collection.name]

    # -- evaluation --------------------------------------------------------------------------------

    def run(self) -> dict[int, SeedResult]:
        """Return the results of each seed."""
        # All are prepared first, because the controlled oracle chooses by the other seeds.
        prepared = {seed: self.prepare(seed) for seed in self.suite.seeds}
        return {seed: self.evaluate(seed, prepared) for seed in self.suite.seeds}

    def evaluate(self, seed: int, prepared: Mapping[int, Prepared]) -> SeedResult:
        """Fit each system on held-out queries, and try it on the test queries."""
        own = prepared[seed]
        others = [value for key, value in prepared.items() if key != seed]
        known = make_known(own, self.suite.experts)
        outcomes: dict[str, dict[str, Candidate]] = {}
        with self.progress.task(f"systems, seed {seed}", len(self.suite.systems)) as task:
            for name in self.suite.systems:
                system = SYSTEMS[name]()
                needs_other_seeds = isinstance(system, Oracle) and name.endswith("-controlled")
                if needs_other_seeds and not others:
                    task.advance(1)
                    continue
                asked, learnt = own, known
                if system.kind is not None:
                    asked = self.prepare(seed, system.kind)
                    learnt = make_known(asked, self.suite.experts)
                system.fit(learnt)
                outcomes[name] = {}
                for collection, queries in asked.test.items():
                    same = [other.test[collection] for other in others]
                    outcomes[name][collection] = outcome(system, queries, same)
                task.advance(1, name)
        for expert in self.suite.experts:
            alone = {}
            for collection, queries in own.test.items():
                alone[collection] = queries.candidates[expert]
            outcomes[f"expert:{expert}"] = alone
        return SeedResult(outcomes=outcomes, **routing_facts(known, own))
