"""Experts trained under other settings: training queries, branch layer, LoRA; and multi-task rivals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from routerretriever.bench.catalogue import MULTI_TASKS
from routerretriever.bench.runner import Bench
from routerretriever.bench.studies.study import Point, StudyResult
from routerretriever.bench.study_settings import (
    BranchLayerSettings,
    LoraSettings,
    StudySettings,
    TrainingQueriesSettings,
)
from routerretriever.evaluation.runs import ndcg_at_10
from routerretriever.model import RouterRetriever
from routerretriever.routing.candidates import BASE


def training_queries_study(bench: Bench, seed: int, settings: TrainingQueriesSettings) -> StudyResult:
    """Vary the training queries of an expert, from fifty to all."""
    changes = {}
    for count in settings.counts:
        changes[str(count or "all")] = {"max_queries": count}
    points = _trained_points(bench, seed, "training-queries", changes, settings.collections)
    return StudyResult(
        name="training-queries",
        title="Training queries of an expert",
        axis="queries",
        points=points,
    )


def branch_layer_study(bench: Bench, seed: int, settings: BranchLayerSettings) -> StudyResult:
    """Vary the layer at which experts begin; the layers below it are shared."""
    layers = settings.layers or range(bench.create().encoder.num_layers)
    changes = {}
    for layer in layers:
        changes[str(layer)] = {"branch_layer": layer}
    points = _trained_points(bench, seed, "branch-layer", changes, settings.collections)
    return StudyResult(
        name="branch-layer",
        title="Where the experts begin",
        axis="branch layer",
        points=points,
    )


def lora_study(bench: Bench, seed: int, settings: LoraSettings) -> StudyResult:
    """Vary the LoRA rank and the layers it changes."""
    changes = {}
    for label, targets in settings.targets.items():
        for rank in settings.ranks:
            change = {"rank": rank, "alpha": 4.0 * rank, "targets": targets or None}
            changes[f"r={rank}, {label}"] = change
    points = _trained_points(bench, seed, "lora", changes, settings.collections)
    return StudyResult(name="lora", title="LoRA rank and targets", axis="setting", points=points)


def multi_task_study(bench: Bench, seed: int, settings: StudySettings) -> StudyResult:
    """Train one adapter on all collections: on all data, on less, and with the experts' summed rank."""
    rivals = bench.rivals(seed, MULTI_TASKS)
    names = bench.suite.experts
    test = bench.prepare_with(bench.model(seed), seed, names, rivals).test
    groups = {"seen": names, "unseen": bench.suite.unseen}
    points = []
    for adapter in (BASE, *MULTI_TASKS):
        figures = {}
        for label, members in groups.items():
            if members:
                values = [test[name].candidates[adapter].ndcg.mean() for name in members]
                figures[label] = float(np.mean(values))
        points.append(Point(adapter, figures))
    return StudyResult(
        name="multi-task",
        title="One adapter for all collections",
        axis="adapter",
        points=tuple(points),
    )


def _trained_points(
    bench: Bench,
    seed: int,
    study: str,
    changes: Mapping[str, Mapping[str, Any]],
    collections: Sequence[str],
) -> tuple[Point, ...]:
    """Train experts under several settings, and measure each on its own collection."""
    names = collections or bench.suite.experts
    points = []
    for label, change in changes.items():
        of_training = dict(change)
        of_model = {}
        if "branch_layer" in of_training:
            of_model["branch_layer"] = of_training.pop("branch_layer")
        config = replace(bench.suite.training_config(seed), **of_training)
        jobs = {name: ([bench.collections[name]], config) for name in names}
        model = bench.trained(f"{study}-{label}", jobs, **of_model)
        figures = {name: _own_ndcg(bench, model, name) for name in names}
        mean = float(np.mean(list(figures.values())))
        points.append(Point(label, {**figures, "mean": mean}))
    return tuple(points)


def _own_ndcg(bench: Bench, model: RouterRetriever, name: str) -> float:
    """Return the mean nDCG@10 of an expert on the test queries of its collection."""
    collection, split = bench.collections[name], bench.test_split(name)
    vectors = model.encode_query(list(split.queries.values()), expert=name, batch_size=64)
    documents = bench.documents(collection)
    similarity = model.similarity_fn_name
    return float(ndcg_at_10(vectors, split, documents, collection, similarity).mean())
