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
from routerretriever.bench.oracles import Oracle
from routerretriever.bench.runner import Bench
from routerretriever.bench.seed_result import SeedResult
from routerretriever.bench.studies.study import StudyResult
from routerretriever.evaluation.runs import GAIN_MEASURE, MEASURES
from routerretriever.evaluation.statistics import bootstrap_interval, paired_p_value
from routerretriever.routing.candidates import BASE

_PACKAGES = ("routerretriever", "torch", "transformers", "sentence-transformers", "peft", "scikit-learn", "ir-measures")


def summarise(bench: Bench, seeds: Mapping[int, SeedResult], studies: Sequence[StudyResult]) -> dict[str, Any]:
    """Return all that the report shows, as plain data.

    Values of a query are averaged over the seeds before intervals and tests, so that a query counts
    once. Means are macro means over collections, in nDCG@10.
    """
    suite = bench.suite
    groups = {"seen": list(suite.experts), "unseen": list(suite.unseen)}
    names = _systems(seeds)
    values = {name: {c: _per_query(seeds, name, c) for c in bench.collections} for name in names}
    document = {
        "suite": suite.name,
        "base": suite.base,
        "command": f"routerretriever bench {suite.name}.yaml --out DIR",
        "machine": {"processor": platform.machine(), "cores": os.cpu_count()},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
        "seeds": list(seeds),
        "groups": groups,
        "collections": _collections(bench, seeds, groups),
        "systems": {name: _system(name, values, seeds, groups) for name in names},
        "calibration": _calibration(seeds),
        "abstention_auroc": measures.abstention_auroc(*(_in_domain_scores(seeds, group) for group in groups.values())),
        "studies": [asdict(study) for study in studies],
        "published": {name: dict(row) for name, row in suite.published.items()},
        "notes": _notes(bench, seeds),
    }
    _correct_pooled(document)
    return document


def is_oracle(name: str) -> bool:
    """Whether a row sees the test judgements."""
    return name in SYSTEMS and isinstance(SYSTEMS[name](), Oracle)


def _systems(seeds: Mapping[int, SeedResult]) -> list[str]:
    shared = [set(result.outcomes) for result in seeds.values()]
    first = next(iter(seeds.values()))
    return [name for name in first.outcomes if all(name in names for names in shared)]


def _per_query(seeds: Mapping[int, SeedResult], name: str, collection: str) -> dict[str, measures.Values]:
    outcomes = [result.outcomes[name][collection] for result in seeds.values()]
    return {measure: np.mean([outcome.values[measure] for outcome in outcomes], axis=0) for measure in MEASURES}


def _system(
    name: str,
    values: Mapping[str, Mapping[str, Mapping[str, measures.Values]]],
    seeds: Mapping[int, SeedResult],
    groups: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    row: dict[str, Any] = {"oracle": is_oracle(name), "collections": {}}
    for collection, figures in values[name].items():
        ndcg, base = figures[GAIN_MEASURE], values[BASE][collection][GAIN_MEASURE]
        hurt, helped = measures.hurt_and_helped(ndcg, base)
        row["collections"][collection] = {
            **{measure: float(column.mean()) for measure, column in figures.items()},
            "ci95": bootstrap_interval(ndcg),
            "hurt": hurt,
            "helped": helped,
        }
    p_values = {c: paired_p_value(f[GAIN_MEASURE], values[BASE][c][GAIN_MEASURE]) for c, f in values[name].items()}
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
    own, base = ([values[system][c][GAIN_MEASURE] for c in members] for system in (name, BASE))
    means, base_means = (np.array([column.mean() for column in columns]) for columns in (own, base))
    by_seed = [float(np.mean([result.outcomes[name][c].ndcg.mean() for c in members])) for result in seeds.values()]
    oracle = values.get("dataset-oracle")
    share = None
    if oracle:
        best = float(np.mean([oracle[c][GAIN_MEASURE].mean() for c in members]))
        share = measures.recovered_share(float(means.mean()), float(base_means.mean()), best)
    worst = int(np.argmin(means - base_means))
    hurt, helped = measures.hurt_and_helped(np.concatenate(own), np.concatenate(base))
    row: dict[str, Any] = {
        "mean": float(means.mean()),
        "sd": float(np.std(by_seed, ddof=1)) if len(by_seed) > 1 else None,
        "share": share,
        "hurt": hurt,
        "helped": helped,
        "worst": [members[worst], float((means - base_means)[worst])],
    }
    if ROUTED in values and name != ROUTED:
        routed = [values[ROUTED][c][GAIN_MEASURE] for c in members]
        row["p_vs_routed"] = measures.pooled_p_value(routed, own)
    return row


def _correct_pooled(document: dict[str, Any]) -> None:
    """Apply Holm's correction to the comparisons with the default router, group by group."""
    for group in document["groups"]:
        rows = {name: row[group] for name, row in document["systems"].items() if group in row}
        raw = {name: row["p_vs_routed"] for name, row in rows.items() if "p_vs_routed" in row}
        for name, p_value in measures.holm(raw).items():
            rows[name]["p_vs_routed"] = p_value


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
            "documents": len(collection.documents),
            "queries": len(bench.test_split(name)),
            "split": bench.suite.test_splits.get(name, "test"),
            "held_out": collection.train_and_held_out()[1].name if seen else None,
            "chosen": dict(sorted(chosen.items(), key=lambda item: -item[1])),
        }
    return described


def _calibration(seeds: Mapping[int, SeedResult]) -> dict[str, Any] | None:
    predicted, measured = (
        np.concatenate([getattr(result, side) for result in seeds.values()]) for side in ("predicted", "measured")
    )
    result = measures.calibration(predicted, measured)
    return asdict(result) if result else None


def _in_domain_scores(seeds: Mapping[int, SeedResult], group: Sequence[str]) -> list[measures.Values]:
    return [result.in_domain_scores[name] for result in seeds.values() for name in group]


def _notes(bench: Bench, seeds: Mapping[int, SeedResult]) -> list[str]:
    notes = []
    without_dev = [c.name for c in bench.experts if c.train_and_held_out()[1].name != "dev"]
    if without_dev:
        notes.append(f"No dev split, so a part of train was held out: {', '.join(without_dev)}.")
    if len(seeds) < 2 and "instance-oracle-controlled" in bench.suite.systems:
        notes.append("The noise-controlled InstanceOracle needs a second seed and is left out.")
    return notes
