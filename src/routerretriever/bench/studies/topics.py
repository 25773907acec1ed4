"""Many experts: collections split by topic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from sklearn.cluster import KMeans

from routerretriever.bench.outcome import outcome
from routerretriever.bench.prepared import make_known
from routerretriever.bench.runner import Bench
from routerretriever.bench.studies.study import Point, StudyResult
from routerretriever.bench.study_settings import TopicsSettings
from routerretriever.bench.systems import Routed
from routerretriever.data.collection import Collection
from routerretriever.data.splits import Split
from routerretriever.model import RouterRetriever


def topics_study(bench: Bench, seed: int, settings: TopicsSettings) -> StudyResult:
    """Split the larger collections by topic, and train an expert of each topic besides the others."""
    own, names = bench.prepare(seed), bench.suite.experts
    config = bench.suite.training_config(seed)
    jobs, sizes = {}, {}
    for name in names:
        collection = bench.collections[name]
        jobs[name] = ([collection], config)
        sizes[name] = len(collection.train_and_held_out()[0])
    topic_config = replace(config, max_queries=settings.max_queries)
    for name, parts in topic_counts(sizes, settings.experts).items():
        for topic in split_by_topic(bench.model(seed), bench.collections[name], parts):
            jobs[topic.name] = ([topic], topic_config)
    model = bench.trained(f"seed-{seed}-topics", jobs, start=f"seed-{seed}")

    many = bench.prepare_with(model, seed, tuple(jobs))
    points = []
    for prepared, present in ((own, names), (many, tuple(jobs))):
        system = Routed()
        system.fit(make_known(prepared, present))
        figures = {}
        for name, queries in prepared.test.items():
            figures[name] = float(outcome(system, queries).ndcg.mean())
        points.append(Point(str(len(present)), figures))
    return StudyResult(
        name="topics",
        title="More experts, of overlapping topics",
        axis="number of experts",
        points=tuple(points),
    )


def topic_counts(sizes: Mapping[str, int], experts: int) -> dict[str, int]:
    """Return the number of topics of each collection that is split.

    With one expert of each collection and of each topic there are ``experts``.
    """
    parts = dict.fromkeys(sizes, 1)

    def queries_a_part(name: str) -> float:
        return sizes[name] / parts[name]

    missing = experts - len(sizes)
    while missing > 0:
        chosen = max(parts, key=queries_a_part)
        # The first split of a collection makes two experts, which is too many for the last one.
        if parts[chosen] == 1 and missing == 1:
            split = [name for name in parts if parts[name] > 1]
            chosen = max(split or [chosen], key=queries_a_part)
        missing -= 2 if parts[chosen] == 1 else 1
        parts[chosen] += 1
    return {name: count for name, count in parts.items() if count > 1}


def split_by_topic(model: RouterRetriever, collection: Collection, parts: int) -> list[Collection]:
    """Divide train and held-out queries of a collection by k-means over their route embeddings."""
    train, held_out = collection.train_and_held_out()
    embeddings = model.route_embeddings(list(train.queries.values()))
    means = KMeans(parts, n_init=1, random_state=0).fit(embeddings)

    def divided(split: Split) -> list[Split]:
        topics = means.predict(model.route_embeddings(list(split.queries.values())))
        members: list[list[str]] = [[] for _ in range(parts)]
        for query_id, topic in zip(split.queries, topics.tolist(), strict=True):
            members[topic].append(query_id)
        return [split.restrict(own) for own in members]

    topics = []
    pairs = zip(divided(train), divided(held_out), strict=True)
    for number, (own, probes) in enumerate(pairs, start=1):
        splits = {"train": own, "dev": probes}
        name = f"{collection.name}-topic{number}"
        topics.append(replace(collection, name=name, splits=splits))
    return topics
