"""From the seeds' results to the one JSON document that every table and plot is made of."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import numpy as np

from routerretriever.bench import measures
from routerretriever.bench.catalogue import ROUTED, SYSTEMS
from routerretriever.bench.costs import costs
from routerretriever.bench.oracles import Oracle
from routerretriever.bench.runner import Bench
from routerretriever.bench.seed_result import SeedResult
from routerretriever.bench.studies.study import StudyResult
from routerretriever.evaluation.runs import GAIN_MEASURE, MEASURES
from routerretriever.evaluation.statistics import bootstrap_interval, paired_p_value
from routerretriever.routing.candidates import BASE

_PACKAGES = (
    "routerretriever",
    "torch",
    "transformers",
    "sentence-transformers",
    "peft",
    "scikit-learn",
    "ir-measures",
)


SystemValues = dict[str, dict[str, dict[str, measures.Values]]]
"""System → collection → measure → value per query."""


def summarise(
    bench: Bench, seeds: Mapping[int, SeedResult], studies: Sequence[StudyResult]
) -> dict[str, Any]:
    """Return all that the report shows, as plain data.

    Values of a query are averaged over the seeds before intervals and tests, so that a query counts
    once. Means are macro means over collections, in nDCG@10.
    """
    suite = bench.suite
    groups = {"seen": list(suite.experts), "unseen": list(suite.unseen)}
    names = _systems(seeds)
    values: SystemValues = {}
    for name in names:
        values[name] = {c: _per_query(seeds, name, c) for c in bench.collections}
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        versions[package] = version(package)
    seen = _in_domain_scores(seeds, suite.experts)
    unseen = _in_domain_scores(seeds, suite.unseen)
    document = {
        "suite": suite.name,
        "base": suite.base,
        "command": f"routerretriever bench {suite.name}.yaml --out DIR",
        "machine": {"processor": platform.machine(), "cores": os.cpu_count()},
        "versions": versions,
        "seeds": list(seeds),
        "groups": groups,
        "collections": _collections(bench, seeds, groups),
        "systems": {name: _system(name, values, seeds, groups) for name in names},
        "calibration": _calibration(seeds),
        "abstention_auroc": measures.abstention_auroc(seen, unseen),
        "costs": costs(bench),
        "studies": list(map(asdict, studies)),
        "published": dict(suite.published),
        "notes": _notes(bench, seeds),
    }
    _correct_pooled(document)
    return document


def is_oracle(name: str) -> bool:
    """Whether a row sees the test judgements."""
    return name in SYSTEMS and isinstance(SYSTEMS[name](), Oracle)


def _systems(seeds: Mapping[int, SeedResult]) -> list[str]:
    """Return the systems that every seed has, in the order of the first."""
    first, *others = seeds.values()
    names = list(first.outcomes)
    for result in others:
        names = [name for name in names if name in result.outcomes]
    return names


def _per_query(seeds: Mapping[int, SeedResult], name: str, collection: str) -> dict[str, measures.Values]:
    """Return each measure's values of a system's queries, averaged over the seeds."""
    means = {}
    for measure in MEASURES:
        by_seed = [result.outcomes[name][collection].values[measure] for result in seeds.values()]
        means[measure] = np.mean(by_seed, axis=0)
    return means


def _system(
    name: str,
    values: Mapping[str, Mapping[str, Mapping[str, measures.Values]]],
    seeds: Mapping[int, SeedResult],
    groups: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    row: dict[str, Any] = {"oracle": is_oracle(name), "collections": {}}
    p_values = {}
    for collection, figures in values[name].items():
        ndcg, base = figures[GAIN_MEASURE], values[BASE][collection][GAIN_MEASURE]
        hurt, helped = measures.hurt_and_helped(ndcg, base)
        means = {measure: float(column.mean()) for measure, column in figures.items()}
        own = {"ci95": bootstrap_interval(ndcg), "hurt": hurt, "helped": helped}
        row["collections"][collection] = means | own
        p_values[collection] = paired_p_value(ndcg, base)
    for collection, p_value in measures.holm(p_values).items():
        row["collections"][collection]["p_vs_base"] = p_value
    for group, members in groups.items():
        if members:
            row[group] = _group(name, members, values, seeds)
    return row


def _group(
    name: str,
    members: Sequence[str],
    values: Mapping[str, Mapping[str, Mapping[str, measures.Values]]],
    seeds: Mapping[int, SeedResult],
) -> dict[str, Any]:
    own, base = _ndcg(values[name], members), _ndcg(values[BASE], members)
    means, base_means = _means(own), _means(base)
    share = None
    if "dataset-oracle" in values:
        best = float(_means(_ndcg(values["dataset-oracle"], members)).mean())
        share = measures.recovered_share(float(means.mean()), float(base_means.mean()), best)

    # The spread is that of the seeds' macro means.
    spread = None
    if len(seeds) > 1:
        by_seed = []
        for result in seeds.values():
            outcomes = result.outcomes[name]
            means_of_seed = [outcomes[collection].ndcg.mean() for collection in members]
            by_seed.append(float(np.mean(means_of_seed)))
        spread = float(np.std(by_seed, ddof=1))

    worst = int(np.argmin(means - base_means))
    hurt, helped = measures.hurt_and_helped(np.concatenate(own), np.concatenate(base))
    row: dict[str, Any] = {
        "mean": float(means.mean()),
        "sd": spread,
        "share": share,
        "hurt": hurt,
        "helped": helped,
        "worst": [members[worst], float((means - base_means)[worst])],
    }
    if ROUTED in values and name != ROUTED:
        routed = _ndcg(values[ROUTED], members)
        row["p_vs_routed"] = measures.pooled_p_value(routed, own)
    return row


def _ndcg(
    values: Mapping[str, Mapping[str, measures.Values]], members: Sequence[str]
) -> list[measures.Values]:
    return [values[collection][GAIN_MEASURE] for collection in members]


def _means(columns: Sequence[measures.Values]) -> measures.Values:
    return np.array([column.mean() for column in columns])


def _correct_pooled(document: dict[str, Any]) -> None:
    """Apply Holm's correction to the comparisons with the default router, group by group."""
    for group in document["groups"]:
        raw = {}
        for name, row in document["systems"].items():
            if group in row and "p_vs_routed" in row[group]:
                raw[name] = row[group]["p_vs_routed"]
        for name, p_value in measures.holm(raw).items():
            document["systems"][name][group]["p_vs_routed"] = p_value


def _collections(
    bench: Bench, seeds: Mapping[int, SeedResult], groups: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, Any]]:
    described = {}
    for name, collection in bench.collections.items():
        seen = name in groups["seen"]
        chosen: dict[str, float] = {}
        for result in seeds.values():
            for candidate, count in result.chosen[name].items():
                chosen[candidate] = chosen.get(candidate, 0.0) + count / len(seeds)
        described[name] = {
            "group": "seen" if seen else "unseen",
            **bench.documents(collection).counts.to_dict(),
            "queries": len(bench.test_split(name)),
            "split": bench.suite.test_splits.get(name, "test"),
            "held_out": collection.train_and_held_out()[1].name if seen else None,
            "chosen": dict(sorted(chosen.items(), key=lambda item: -item[1])),
        }
    return described


def _calibration(seeds: Mapping[int, SeedResult]) -> dict[str, Any] | None:
    predicted, measured = [], []
    for result in seeds.values():
        predicted.append(result.predicted)
        measured.append(result.measured)
    calibration = measures.calibration(np.concatenate(predicted), np.concatenate(measured))
    return asdict(calibration) if calibration else None


def _in_domain_scores(seeds: Mapping[int, SeedResult], group: Sequence[str]) -> list[measures.Values]:
    scores = []
    for result in seeds.values():
        scores += [result.in_domain_scores[name] for name in group]
    return scores


def _notes(bench: Bench, seeds: Mapping[int, SeedResult]) -> list[str]:
    notes = []
    without_dev = []
    for collection in bench.experts:
        if collection.train_and_held_out()[1].name != "dev":
            without_dev.append(collection.name)
    if without_dev:
        notes.append(f"No dev split, so a part of train was held out: {', '.join(without_dev)}.")
    if bench.suite.cut_off:
        notes.append(
            "Long documents were cut off after what the base reads, and not ranked by their passages."
        )
    if len(seeds) < 2 and "instance-oracle-controlled" in bench.suite.systems:
        notes.append("The noise-controlled InstanceOracle needs a second seed and is left out.")
    return notes
