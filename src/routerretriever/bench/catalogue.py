"""The names that a suite may use."""

from __future__ import annotations

from collections.abc import Callable

from routerretriever.bench import oracles, routers, systems
from routerretriever.bench.query_set import FALLBACK
from routerretriever.bench.systems import BM25, MULTI_TASK, Always, System
from routerretriever.bench.with_words import Hybrid, RankFusion, RoutedHybrid
from routerretriever.experts.training_config import TrainedKinds
from routerretriever.routing.candidates import BASE, MERGED

LINEAR_ADAPTER = "linear-adapter"
"""One map of the finished query vector for all collections, as Chroma and LlamaIndex train it."""

MULTI_TASKS = (MULTI_TASK, f"{MULTI_TASK}-small", f"{MULTI_TASK}-rank", LINEAR_ADAPTER)
"""One adapter for all collections: LoRA on all data; cut to the smallest (the paper's); rank × experts; a map."""

ROUTED = "routed"
"""The product's routing by vectors alone, which the others are compared with."""

ROUTED_HYBRID = "routed-hybrid"
"""The product's default search."""

SYSTEMS: dict[str, Callable[[], System]] = {
    BASE: lambda: Always(BASE),
    MERGED: lambda: Always(MERGED),
    FALLBACK: lambda: Always(FALLBACK),
    "mean": systems.UniformMean,
    "random": systems.Random,
    "base+best": systems.BasePlusBest,
    **{name: lambda name=name: Always(name) for name in MULTI_TASKS},  # type: ignore[misc]
    "pilot-mean": lambda: systems.Routed("pilot-mean", "best-expert"),
    "pilot-max": lambda: systems.Routed("pilot-max", "best-expert"),
    "expert-classifier": routers.ExpertClassifierRouter,
    "classification-head": routers.ClassificationHeadRouter,
    "dataset-router": routers.DatasetRouter,
    "ridge": routers.RidgeRouter,
    "gain-trusting": lambda: systems.Routed(abstain=False),
    "gain-margin": lambda: systems.Routed(margin=0.02),
    ROUTED: systems.Routed,
    "map": lambda: systems.Routed(kind=TrainedKinds.MAP),
    "both": lambda: systems.Routed(kind=TrainedKinds.BOTH),
    "mixed": lambda: systems.Routed(mix=3),
    "mixed-vectors": systems.VectorMixture,
    "routed+generalist": lambda: systems.Routed(generalist=True),
    "mixed+generalist": lambda: systems.Routed(generalist=True, mix=3),
    "mixed-vectors+generalist": lambda: systems.VectorMixture(generalist=True),
    "dataset-oracle": oracles.DatasetOracle,
    "instance-oracle": oracles.InstanceOracle,
    "instance-oracle-controlled": oracles.ControlledInstanceOracle,
    BM25: lambda: Always(BM25),
    "hybrid": Hybrid,
    ROUTED_HYBRID: RoutedHybrid,
    "rank-fusion": RankFusion,
}
"""Name → how to make the system; the experts alone (``expert:NAME``) are always evaluated."""
