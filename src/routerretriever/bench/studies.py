"""One thing varied at a time. Every study yields points for a table and a plot.

Studies without training (``experts``, ``pilots``, ``route-layer``, ``leave-one-out``, ``second-expert``) reuse
cached query vectors; the others train a few experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torch.nn.functional import normalize

from routerretriever.bench.data import QuerySet
from routerretriever.bench.systems import DatasetOracle, Routed, outcome
from routerretriever.data.collection import Collection
from routerretriever.data.splits import Split
from routerretriever.encoder.layered_pass import mean_pool
from routerretriever.encoder.routed_encoder import RoutedEncoder
from routerretriever.evaluation.runs import ndcg_at_10
from routerretriever.kernels.exact_search import Vectors
from routerretriever.routing.candidates import BASE

if TYPE_CHECKING:
    from routerretriever.bench.runner import Bench
    from routerretriever.bench.systems import Known
    from routerretriever.model import RouterRetriever

_BLOCK = 64  # queries encoded at once


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
    from routerretriever.bench.runner import make_known

    model, everyone = bench.model(seed), bench.suite.experts
    points = []
    for count in counts or range(1, len(everyone) + 1):
        names = everyone[:count]
        prepared = bench.prepare_with(model, seed, names)
        groups = {"with an expert": names, "without one": [n for n in prepared.test if n not in names]}
        points.append(Point(str(count), _figures(make_known(prepared, names), prepared.test, groups)))
    return StudyResult("experts", "Experts added one at a time", "number of experts", tuple(points))


def pilots_study(bench: Bench, seed: int, counts: Sequence[int] = (1, 5, 20, 100, 500)) -> StudyResult:
    """Pilots a collection: from one centroid to a pilot for every held-out query."""
    from routerretriever.bench.runner import make_known

    prepared, names = bench.prepare(seed), bench.suite.experts
    groups = {"seen": names, "unseen": bench.suite.unseen}
    limits = {str(count): {"pilots": count, "training_pilots": 0} for count in counts}
    limits["all, and training queries"] = {}
    points = [
        Point(label, _figures(make_known(prepared, names, **limit), prepared.test, groups))
        for label, limit in limits.items()
    ]
    return StudyResult("pilots", "Pilots of each collection", "pilots a collection (at most)", tuple(points))


def leave_one_out_study(bench: Bench, seed: int) -> StudyResult:
    """Each expert removed in turn: its collection becomes unseen, the others must not notice."""
    from routerretriever.bench.runner import make_known

    model, everyone = bench.model(seed), bench.suite.experts
    points = []
    for missing in everyone:
        names = tuple(name for name in everyone if name != missing)
        prepared = bench.prepare_with(model, seed, names)
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
    twins = bench.model(other).state.experts
    for name in collections or names:
        model = bench.with_adapters(bench.model(seed), {f"{name}-2": twins[name]})
        doubled = bench.prepare_with(model, seed, (*names, f"{name}-2"))
        known = make_known(doubled, (*names, f"{name}-2"))
        points.append(Point(name, _figures(known, doubled.test, {"seen": names})))
    return StudyResult("second-expert", "A second expert of one domain", "doubled expert", tuple(points))


def caution_study(
    bench: Bench,
    seed: int,
    settings: Sequence[tuple[float, float]] = ((0.0, 0.0), (0.02, 0.1), (0.06, 0.12), (0.07, 0.3), (0.15, 0.3)),
) -> StudyResult:
    """Compare thresholds, set by fractions of in-domain queries; see :mod:`.unseen_queries`."""
    from routerretriever.bench.unseen_queries import IN_DOMAIN, OUT_OF_DOMAIN, unseen_queries

    gains: dict[tuple[float, float], dict[str, dict[str, list[Any]]]] = {
        fractions: {IN_DOMAIN: {}, OUT_OF_DOMAIN: {}} for fractions in settings
    }
    for unseen in unseen_queries(bench, seed):
        for fractions, situations in gains.items():
            collected = situations[unseen.situation].setdefault(unseen.queries.name, [])
            collected.append(unseen.gains(fractions))
    points = []
    for (reject, trust), situations in gains.items():
        means = {k: {n: float(np.concatenate(v).mean()) for n, v in by.items()} for k, by in situations.items()}
        figures = {f"{situation}, over base": float(np.mean(list(m.values()))) for situation, m in means.items()}
        figures["out of domain, worst collection"] = min(means[OUT_OF_DOMAIN].values())
        points.append(Point(f"{reject:g} / {trust:g}", figures))
    axis = "fraction below the reject / trust threshold at most"
    return StudyResult("caution", "Partial abstention, on held-out queries", axis, tuple(points))


def route_layer_study(bench: Bench, seed: int) -> StudyResult:
    """The layer whose pooled hidden state the router reads; at 0 it is the mean of the token embeddings."""
    from routerretriever.bench.runner import make_known

    prepared, names = bench.prepare(seed), bench.suite.experts
    groups = {"seen": names, "unseen": bench.suite.unseen}
    encoder = bench.create().encoder
    sets = [*prepared.held_out.values(), *prepared.test.values()]
    by_layer = {id(queries): embeddings_by_layer(encoder, queries.queries.texts) for queries in sets}
    points = []
    for layer in range(encoder.num_layers + 1):

        def read(queries: QuerySet, layer: int = layer) -> QuerySet:
            return replace(queries, queries=replace(queries.queries, route_embeddings=by_layer[id(queries)][layer]))

        held_out = {name: read(queries) for name, queries in prepared.held_out.items()}
        test = {name: read(queries) for name, queries in prepared.test.items()}
        known = make_known(replace(prepared, held_out=held_out), names)
        label = "final" if layer == encoder.num_layers else str(layer)
        points.append(Point(label, _figures(known, test, groups)))
    return StudyResult("route-layer", "Where the router reads", "layer", tuple(points))


def embeddings_by_layer(encoder: RoutedEncoder, texts: Sequence[str]) -> list[Vectors]:
    """Mean-pooled unit vectors (n, d) entering each layer of the base, and leaving the last one."""
    found: list[list[Tensor]] = []
    for start in range(0, len(texts), _BLOCK):
        with torch.no_grad():
            features = encoder.tokenized(list(texts[start : start + _BLOCK]))
            found.append(_pooled_by_layer(encoder, features))
    return [torch.cat(blocks).cpu().numpy() for blocks in zip(*found, strict=True)]


def _pooled_by_layer(encoder: RoutedEncoder, features: dict[str, Any]) -> list[Tensor]:
    """Return the base's hidden states entering each layer, mean-pooled (n, d), then its embedding."""
    entering: list[Tensor] = []

    def note(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        entering.append(mean_pool(hidden, features["attention_mask"]))

    layers = encoder.layered.layers
    handles = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in layers]
    try:
        final: Tensor = encoder.encode_plainly(dict(features))["sentence_embedding"]
    finally:
        for handle in handles:
            handle.remove()
    return [*entering, normalize(final.float(), dim=-1)]


def topics_study(bench: Bench, seed: int, experts: int = 20, max_queries: int = 1000) -> StudyResult:
    """Many experts: the larger collections are split by topic, and every topic gets an expert besides the others."""
    from routerretriever.bench.runner import make_known

    own, names = bench.prepare(seed), bench.suite.experts
    config = replace(bench.suite.training_config(seed), max_queries=max_queries)
    jobs = {name: ([bench.collections[name]], bench.suite.training_config(seed)) for name in names}
    sizes = {name: len(bench.collections[name].train_and_held_out()[0]) for name in names}
    for name, parts in topic_counts(sizes, experts).items():
        for topic in split_by_topic(bench.model(seed), bench.collections[name], parts):
            jobs[topic.name] = ([topic], config)
    model = bench.trained(f"seed-{seed}-topics", jobs, start=f"seed-{seed}")
    many = bench.prepare_with(model, seed, tuple(jobs))
    points = []
    for prepared, present in ((own, names), (many, tuple(jobs))):
        system = Routed()
        system.fit(make_known(prepared, present))
        figures = {name: float(outcome(system, queries).ndcg.mean()) for name, queries in prepared.test.items()}
        points.append(Point(str(len(present)), figures))
    return StudyResult("topics", "More experts, of overlapping topics", "number of experts", tuple(points))


def topic_counts(sizes: Mapping[str, int], experts: int) -> dict[str, int]:
    """Into how many topics each collection is split, so that with one expert a collection there are ``experts``."""
    parts = dict.fromkeys(sizes, 1)
    missing = experts - len(sizes)
    while missing > 0:
        largest = max(parts, key=lambda name: sizes[name] / parts[name])
        # The first split makes two experts, unless only one more is wanted.
        candidates = [largest] if parts[largest] > 1 or missing > 1 else [n for n in parts if parts[n] > 1] or [largest]
        chosen = max(candidates, key=lambda name: sizes[name] / parts[name])
        missing -= 2 if parts[chosen] == 1 else 1
        parts[chosen] += 1
    return {name: count for name, count in parts.items() if count > 1}


def split_by_topic(model: RouterRetriever, collection: Collection, parts: int) -> list[Collection]:
    """The collection's train and held-out queries, divided by k-means over their route embeddings."""
    train, held_out = collection.train_and_held_out()
    means = KMeans(parts, n_init=1, random_state=0).fit(model.route_embeddings(list(train.queries.values())))

    def divided(split: Split) -> list[Split]:
        topics = means.predict(model.route_embeddings(list(split.queries.values())))
        return [
            split.restrict(q for q, t in zip(split.queries, topics, strict=True) if t == part) for part in range(parts)
        ]

    return [
        replace(collection, name=f"{collection.name}-topic{number}", splits={"train": own, "dev": probes})
        for number, (own, probes) in enumerate(zip(divided(train), divided(held_out), strict=True), start=1)
    ]


def _trained_study(
    bench: Bench,
    seed: int,
    study: str,
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
        jobs = {name: ([bench.collections[name]], config) for name in names}
        model = bench.trained(f"{study}-{label}", jobs, **model_settings)
        figures = {}
        for name in names:
            collection, split = bench.collections[name], bench.test_split(name)
            vectors = model.encode_query(list(split.queries.values()), expert=name, batch_size=64)
            documents = model.embed_collection(collection)
            values = ndcg_at_10(vectors, split, documents, collection, model.similarity_fn_name)
            figures[name] = float(values.mean())
        points.append(Point(label, figures | {"mean": float(np.mean(list(figures.values())))}))
    return StudyResult(study, title, axis, tuple(points))


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


def multi_task_study(bench: Bench, seed: int) -> StudyResult:
    """One adapter for all collections: on all data, cut to the smallest collection, with the experts' summed rank."""
    from routerretriever.bench.catalogue import MULTI_TASKS

    rivals = bench.rivals(seed, MULTI_TASKS)
    test = bench.prepare_with(bench.model(seed), seed, bench.suite.experts, rivals).test
    groups = {"seen": bench.suite.experts, "unseen": bench.suite.unseen}
    points = []
    for name in (BASE, *MULTI_TASKS):
        means = {
            label: float(np.mean([test[collection].candidates[name].ndcg.mean() for collection in members]))
            for label, members in groups.items()
            if members
        }
        points.append(Point(name, means))
    return StudyResult("multi-task", "One adapter for all collections", "adapter", tuple(points))


STUDIES: dict[str, Callable[..., StudyResult]] = {
    "experts": experts_study,
    "pilots": pilots_study,
    "caution": caution_study,
    "route-layer": route_layer_study,
    "leave-one-out": leave_one_out_study,
    "second-expert": second_expert_study,
    "topics": topics_study,
    "training-queries": training_queries_study,
    "branch-layer": branch_layer_study,
    "lora": lora_study,
    "multi-task": multi_task_study,
}
"""Name → study; settings in the suite are its keyword arguments."""
