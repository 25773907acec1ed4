"""One thing varied at a time. Every study yields points for a table and a plot.

Studies without training (``experts``, ``pilots``, ``leave-one-out``, ``second-expert``) reuse cached
query vectors; the others train a few experts and say so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from routerretriever.bench.data import QuerySet
from routerretriever.bench.systems import DatasetOracle, Routed, outcome

if TYPE_CHECKING:
    from routerretriever.bench.runner import Bench
    from routerretriever.bench.systems import Known


@dataclass(frozen=True, slots=True)
class Point:
    """One setting of a study.

    Attributes:
        setting: what was varied, as it stands on the axis.
        figures: label → mean nDCG@10.
    """

    setting: str
    figures: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class StudyResult:
    """All points of one study, in order."""

    name: str
    title: str
    axis: str
    points: tuple[Point, ...]


def _figures(known: Known, test: Mapping[str, QuerySet], groups: Mapping[str, Iterable[str]]) -> dict[str, float]:
    """Label of a group of collections → mean of base, routed and DatasetOracle over it."""
    figures = {}
    systems = {"routed": Routed(), "DatasetOracle": DatasetOracle()}
    for system in systems.values():
        system.fit(known)
    for label, names in groups.items():
        present = [name for name in names if name in test]
        if not present:
            continue
        figures[f"base, {label}"] = float(np.mean([test[name].candidates["base"].ndcg.mean() for name in present]))
        for title, system in systems.items():
            values = [outcome(system, test[name]).ndcg.mean() for name in present]
            figures[f"{title}, {label}"] = float(np.mean(values))
    return figures


def experts_study(bench: Bench, seed: int, counts: Sequence[int] = ()) -> StudyResult:
    """Experts added one at a time: what routing gains, on collections with and without an expert of their own."""
    from routerretriever.bench.runner import make_known, only_experts

    model, everyone = bench.model(seed), bench.suite.experts
    points = []
    for count in counts or range(1, len(everyone) + 1):
        names = everyone[:count]
        with only_experts(model, names) as part:
            prepared = bench.prepare_with(part, seed)
        groups = {"with an expert": names, "without one": [n for n in prepared.test if n not in names]}
        points.append(Point(str(count), _figures(make_known(prepared, names), prepared.test, groups)))
    return StudyResult("experts", "Experts added one at a time", "number of experts", tuple(points))


def pilots_study(bench: Bench, seed: int, counts: Sequence[int] = (1, 5, 20, 100, 500)) -> StudyResult:
    """Pilots a collection: from one centroid to a pilot for every held-out query."""
    from routerretriever.bench.runner import make_known

    prepared, names = bench.prepare(seed), bench.suite.experts
    groups = {"seen": names, "unseen": bench.suite.unseen}
    points = [
        Point(str(count), _figures(make_known(prepared, names, pilots=count), prepared.test, groups))
        for count in counts
    ]
    return StudyResult("pilots", "Pilots of each collection", "pilots a collection (at most)", tuple(points))


def leave_one_out_study(bench: Bench, seed: int) -> StudyResult:
    """Each expert removed in turn: its collection becomes unseen, the others must not notice."""
    from routerretriever.bench.runner import make_known, only_experts

    model, everyone = bench.model(seed), bench.suite.experts
    points = []
    for missing in everyone:
        names = tuple(name for name in everyone if name != missing)
        with only_experts(model, names) as part:
            prepared = bench.prepare_with(part, seed)
        groups = {"the removed one": [missing], "the others": names}
        points.append(Point(missing, _figures(make_known(prepared, names), prepared.test, groups)))
    return StudyResult("leave-one-out", "One expert removed", "removed expert", tuple(points))


def second_expert_study(bench: Bench, seed: int, collections: Sequence[str] = ()) -> StudyResult:
    """A second expert of a domain that has one already, trained with another seed: does the router get confused?"""
    from routerretriever.bench.runner import make_known

    own, names = bench.prepare(seed), bench.suite.experts
    other = bench.suite.seeds[(bench.suite.seeds.index(seed) + 1) % len(bench.suite.seeds)]
    points = [Point("none", _figures(make_known(own, names), own.test, {"seen": names}))]
    if other == seed:
        return StudyResult("second-expert", "A second expert of one domain", "doubled expert", tuple(points))
    twin = bench.prepare(other)
    for name in collections or names:
        doubled = bench.with_twin(own, twin, name)
        known = make_known(doubled, (*names, f"{name}-2"))
        points.append(Point(name, _figures(known, doubled.test, {"seen": names})))
    return StudyResult("second-expert", "A second expert of one domain", "doubled expert", tuple(points))


def _trained_study(
    bench: Bench,
    seed: int,
    name: str,
    title: str,
    axis: str,
    settings: Mapping[str, dict[str, Any]],
    names: Sequence[str],
) -> StudyResult:
    """Own experts under several settings, on some collections."""
    points = []
    for label, setting in settings.items():
        model_settings = {key: setting[key] for key in ("branch_layer",) if key in setting}
        changes = {key: value for key, value in setting.items() if key not in model_settings}
        config = replace(bench.suite.training_config(seed), **changes)
        jobs = {collection: ([bench.collections[collection]], config) for collection in names}
        model = bench.trained(f"{name}-{label}", jobs, **model_settings)
        figures = {}
        for collection in names:
            queries = bench.query_set(model, collection, bench.test_split(collection))
            figures[collection] = float(queries.candidates[collection].ndcg.mean())
        points.append(Point(label, figures | {"mean": float(np.mean(list(figures.values())))}))
    return StudyResult(name, title, axis, tuple(points))


def training_queries_study(
    bench: Bench, seed: int, counts: Sequence[int | None] = (50, 200, 800, None), collections: Sequence[str] = ()
) -> StudyResult:
    """Training queries of an expert, from fifty to all."""
    settings = {str(count or "all"): {"max_queries": count} for count in counts}
    names = collections or bench.suite.experts
    return _trained_study(bench, seed, "training-queries", "Training queries of an expert", "queries", settings, names)


def branch_layer_study(
    bench: Bench, seed: int, layers: Sequence[int] = (), collections: Sequence[str] = ()
) -> StudyResult:
    """The layer at which experts begin; below it everything is shared."""
    depth = bench.create().encoder.num_layers
    settings = {str(layer): {"branch_layer": layer} for layer in layers or range(depth)}
    names = collections or bench.suite.experts
    return _trained_study(bench, seed, "branch-layer", "Where the experts begin", "branch layer", settings, names)


def lora_study(
    bench: Bench,
    seed: int,
    ranks: Sequence[int] = (2, 8, 32),
    targets: Mapping[str, Sequence[str] | None] | None = None,
    collections: Sequence[str] = (),
) -> StudyResult:
    """LoRA rank, and which layers it changes."""
    kinds = targets or {"all linear": None, "query, value": ("query", "value")}
    settings = {
        f"r={rank}, {label}": {
            "rank": rank,
            "alpha": 4.0 * rank,
            "targets": tuple(layers) if layers else None,
        }
        for label, layers in kinds.items()
        for rank in ranks
    }
    names = collections or bench.suite.experts
    return _trained_study(bench, seed, "lora", "LoRA rank and targets", "setting", settings, names)


STUDIES: dict[str, Callable[..., StudyResult]] = {
    "experts": experts_study,
    "pilots": pilots_study,
    "leave-one-out": leave_one_out_study,
    "second-expert": second_expert_study,
    "training-queries": training_queries_study,
    "branch-layer": branch_layer_study,
    "lora": lora_study,
}
"""Name → study; settings in the suite are its keyword arguments."""
