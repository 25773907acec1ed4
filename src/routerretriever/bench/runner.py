"""Run a suite: train what is missing, encode once, evaluate every system, write everything down.

Everything that took time is a file below the output folder, so a run that was killed goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from routerretriever.bench.bm25 import bm25_ranking
from routerretriever.bench.catalogue import MULTI_TASKS, SYSTEMS
from routerretriever.bench.data import PART, Candidate, QuerySet, prepare
from routerretriever.bench.studies import STUDIES, StudyResult
from routerretriever.bench.suite import Suite
from routerretriever.bench.systems import BM25, MULTI_TASK, Known, Oracle, Routed, outcome
from routerretriever.collection import Collection, Split
from routerretriever.model import RouterRetriever
from routerretriever.progress import Progress, Silent
from routerretriever.training import TrainingConfig, train_expert
from routerretriever.vectors import Vectors

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
        familiarity: collection → familiarity of its test queries.
    """

    outcomes: Mapping[str, Mapping[str, Candidate]]
    chosen: Mapping[str, Mapping[str, int]]
    predicted: np.ndarray[tuple[int], np.dtype[np.float64]]
    measured: np.ndarray[tuple[int], np.dtype[np.float64]]
    familiarity: Mapping[str, np.ndarray[tuple[int], np.dtype[np.float64]]]


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
        self, folder: str, jobs: Mapping[str, tuple[Sequence[Collection], TrainingConfig]], **settings: Any
    ) -> RouterRetriever:
        """A model with one expert a job, read from ``folder`` as far as it was trained already."""
        path = self.out / "models" / folder
        model = RouterRetriever.from_pretrained(path) if path.exists() else self.create(**settings)
        for name, (collections, config) in jobs.items():
            if name in model.experts:
                continue
            train_expert(model, collections, name=name, config=config, force=True, progress=self.progress)
            model.save_pretrained(path)
        return model

    # -- queries -----------------------------------------------------------------------------------

    def test_split(self, name: str) -> Split:
        """The test queries of a collection, as many as the suite wants."""
        return self.collections[name].split("test").sample(self.suite.limit(name), 0)

    def query_set(
        self, model: RouterRetriever, name: str, split: Split, rivals: Mapping[str, RouterRetriever] | None = None
    ) -> QuerySet:
        """Queries of one collection with every candidate, from the cache where it has them."""
        return prepare(model, rivals or {}, self.collections[name], split, self.out / "vectors", self.progress)

    def held_out(
        self, model: RouterRetriever, rivals: Mapping[str, RouterRetriever] | None = None
    ) -> dict[str, QuerySet]:
        """The held-out queries of the model's own collections."""
        return {
            name: self.query_set(model, name, self.collections[name].train_and_held_out()[1], rivals)
            for name in self.suite.experts
            if name in model.experts
        }

    def prepare(self, seed: int) -> Prepared:
        """All queries of one seed."""
        if seed not in self._prepared:
            needed = {need for name in self.suite.systems for need in SYSTEMS[name]().needs}
            rivals = self.rivals(seed, [name for name in MULTI_TASKS if name in needed])
            prepared = self.prepare_with(self.model(seed), seed, rivals)
            if BM25 in needed:
                for queries in prepared.test.values():
                    queries.candidates[BM25] = queries.measure(bm25_ranking(queries))
            self._prepared[seed] = prepared
        return self._prepared[seed]

    def prepare_with(
        self, model: RouterRetriever, seed: int, rivals: Mapping[str, RouterRetriever] | None = None
    ) -> Prepared:
        """All queries under the experts that a model has now."""
        test = {name: self.query_set(model, name, self.test_split(name), rivals) for name in self.collections}
        sample = {}
        for collection in self.experts:
            train = collection.train_and_held_out()[0].sample(_TRAIN_SAMPLE, seed)
            sample[collection.name] = model.route_embeddings(list(train.queries.values()))
        return Prepared(self.held_out(model, rivals), test, sample)

    def with_twin(self, own: Prepared, twin: Prepared, name: str) -> Prepared:
        """``own`` with the expert ``name`` of another seed added as ``name-2``."""

        def doubled(queries: QuerySet, others: QuerySet) -> QuerySet:
            extra = {f"{name}-2{part}": others.candidates[f"{name}{part}"] for part in ("", PART)}
            return replace(queries, candidates={**queries.candidates, **extra})

        held_out = {key: doubled(queries, twin.held_out[key]) for key, queries in own.held_out.items()}
        test = {key: doubled(queries, twin.test[key]) for key, queries in own.test.items()}
        return replace(own, held_out=held_out, test=test)

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


def make_known(prepared: Prepared, experts: Sequence[str], pilots: int = 500) -> Known:
    """What routers are fitted on; test queries are not within reach."""
    names = tuple(experts)
    held_out = list(prepared.held_out.values())
    has_generalist = all(MULTI_TASK in queries.candidates for queries in held_out)
    return Known(
        experts=names,
        measurements=tuple(queries.measurement(names) for queries in held_out),
        generalist=tuple(q.measurement((*names, MULTI_TASK)) for q in held_out) if has_generalist else (),
        train_sample=prepared.train_sample,
        pilots=pilots,
    )


def _routing_facts(known: Known, prepared: Prepared) -> dict[str, Any]:
    """How often the default router chose what, and how far its predictions hold."""
    router = Routed()
    router.fit(known)
    names = router.policy.candidates
    chosen: dict[str, dict[str, int]] = {}
    familiarity, predicted, measured = {}, [], []
    for name, queries in prepared.test.items():
        decision = router.decision(queries.queries)
        columns = decision.chosen.numpy()
        counts = np.bincount(columns, minlength=len(names))
        chosen[name] = {names[column]: int(counts[column]) for column in np.argsort(-counts) if counts[column]}
        familiarity[name] = decision.familiarity.numpy().astype(float)
        rows = np.flatnonzero((columns >= 2) & (decision.strength.numpy() >= 1))
        gains = queries.measurement(known.experts).gains
        predicted.append(decision.scores.numpy()[rows, columns[rows]])
        measured.append(gains[rows, columns[rows] - 2])
    return {
        "chosen": chosen,
        "familiarity": familiarity,
        "predicted": np.concatenate(predicted).astype(float),
        "measured": np.concatenate(measured).astype(float),
    }


@contextmanager
def only_experts(model: RouterRetriever, names: Sequence[str]) -> Iterator[RouterRetriever]:
    """The model with some of its experts, within the block."""
    encoder, everyone = model.encoder, model.encoder.experts
    policy = encoder.policy
    try:
        encoder.policy = None
        encoder.set_experts(type(everyone)((name, everyone[name]) for name in names))
        yield model
    finally:
        encoder.set_experts(everyone)
        encoder.policy = policy
