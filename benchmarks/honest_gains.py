"""What it costs to choose experts and to measure them on the same held-out queries.

    python benchmarks/honest_gains.py DATA --keep MODEL [--out benchmarks/honest_gains.json]

DATA holds the collections of suites/real.yaml in BEIR's layout. Every expert is trained once, with seed 0. From the
same training, the old rule (all held-out queries stop it, choose the adapter weight and are published) and
the present one each choose an adapter; both are measured on test queries. Then queries are routed with pilots whose
gains follow either rule. MODEL keeps all experts, those that would be refused as well; what is there is not
trained again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from core import REAL
from numpy.typing import NDArray

from routerretriever import Collection, RouterRetriever, TrainingConfig
from routerretriever.cli.common import quiet_libraries
from routerretriever.data.splits import is_measured_on
from routerretriever.encoder.query_batch import HIDDEN_BUDGET, EncodedQueries
from routerretriever.evaluation.gains import measure_gains
from routerretriever.evaluation.runs import ndcg_at_10
from routerretriever.evaluation.statistics import SIGNIFICANCE_LEVEL, paired_p_value
from routerretriever.experts.held_out import HeldOutPart, HeldOutPlan
from routerretriever.experts.kinds import KindTraining, on_device
from routerretriever.experts.trainer import Chosen
from routerretriever.experts.training_config import TrainedKinds
from routerretriever.experts.training_data import TrainingData
from routerretriever.experts.training_report import trained_expert_info
from routerretriever.lora.adapter import Adapter
from routerretriever.lora.layers import TrainingPlan
from routerretriever.progress import Silent
from routerretriever.routing.folds import contiguous_folds
from routerretriever.routing.form_pilots import Measurement, extend_library
from routerretriever.routing.pilot_library import PilotLibrary
from routerretriever.routing.policy import RoutingPolicy
from routerretriever.routing.routers import make_router

ROOT = Path(__file__).parents[1]
LIMIT, SEED, FOLDS = 500, 0, 5


def train(model: RouterRetriever, collection: Collection) -> tuple[Chosen, dict[str, Any]]:
    """Train one expert.

    Returns:
        What the present rule chooses, with the figures of both rules. The expert is in the model.
    """
    started = time.perf_counter()
    config = TrainingConfig(seed=SEED, kind=TrainedKinds.LORA, anchor=0.0)
    vectors = model.embed_collection(collection)
    data = TrainingData.prepare(model, collection, vectors, config, HIDDEN_BUDGET)
    plan = HeldOutPlan.of([list(data.held_out.queries.values())])
    everything = (np.ones(len(data.held_out), bool),)
    old_part = HeldOutPart(selects=everything, measures=(~everything[0],))
    whole = replace(plan, parts=(*plan.parts, old_part))
    training = KindTraining(
        model=model, data=[data], config=config, name=collection.name, plan=whole, progress=Silent()
    )
    (lora,) = training.run()
    trainer, chosen = lora.trainer, lora.chosen
    scores = [found.scores for found in chosen]
    info = trained_expert_info([data], config, whole, lora.base, scores, training=training.key)
    kept, old = chosen[0], chosen[-1]
    # Where nothing beat the base, the old rule published that: a gain of 0.
    old_scores = trainer.base
    if trainer.state.choices[-1].best is not None:
        old_scores = old.scores
    model.add_expert(collection.name, kept.adapter, info, replace=True)
    seconds = round(time.perf_counter() - started, 1)
    tested = test_gains(model, collection, {"old": old.adapter, "kept": kept.adapter})
    figures = {
        "rule": str(info.selection),
        "held_out": len(data.held_out),
        "old_gain": old_scores.mean(everything) - trainer.base.mean(everything),
        "old_p": paired_p_value(old_scores.joined(everything), trainer.base.joined(everything)),
        "old_weight": old.weight,
        "old_test_gain": tested["old"][0],
        "selected_by": info.selected_by,
        "selection_gain": info.selection_gain,
        "measured_on": info.held_out,
        "gain": info.gain,
        "p": info.p_value,
        "weight": kept.weight,
        "refused": not info.gains_significantly(SIGNIFICANCE_LEVEL),
        "seconds": seconds,
        "test_gain": tested["kept"][0],
        "test_p": tested["kept"][1],
    }
    trainer.checkpoint.delete()
    return kept, figures


def test_gains(
    model: RouterRetriever, collection: Collection, adapters: Mapping[str, Adapter]
) -> dict[str, tuple[float, float]]:
    """Return name → the gain of that adapter on test queries, and its p-value."""
    split = collection.split("test").sample(LIMIT, SEED)
    queries = EncodedQueries.of(model.encoder, list(split.queries.values()), model.query_prompt)
    documents = model.embed_collection(collection)

    def scores(plan: TrainingPlan | None) -> NDArray[np.float64]:
        found = queries.vectors(plan)
        return ndcg_at_10(found, split, documents, collection, model.similarity_fn_name)

    base, gains = scores(None), {}
    for name, adapter in adapters.items():
        own = scores(TrainingPlan(on_device(adapter, model.encoder)))
        gains[name] = float((own - base).mean()), paired_p_value(own, base)
    return gains


def libraries(model: RouterRetriever, measurements: Sequence[Measurement]) -> dict[str, PilotLibrary]:
    """Return rule → the library whose pilots have gains by that rule."""
    empty = PilotLibrary.empty(model.encoder.route_dimension, tuple(model.experts))
    whole = [replace(measured, pilot_gains=None) for measured in measurements]
    made = {"old": extend_library(empty, whole), "new": extend_library(empty, measurements)}
    return {rule: replace(library, versions=model.state.versions) for rule, library in made.items()}


def routed_on_test(
    model: RouterRetriever, by_rule: dict[str, PilotLibrary], collections: Sequence[Collection]
) -> dict[str, dict[str, float]]:
    """Return collection → nDCG@10 of the base, and of routed queries by each rule, on test queries."""
    result: dict[str, dict[str, float]] = {}
    for collection in collections:
        split = collection.split("test").sample(LIMIT, SEED)
        documents, texts = model.embed_collection(collection), list(split.queries.values())
        values = {}
        vectors = {"base": model.encode_query(texts, expert="base")}
        for rule, library in by_rule.items():
            model.state = model.state.with_policy(RoutingPolicy(make_router("gain", library)))
            vectors[rule] = model.encode_query(texts)
        for system, found in vectors.items():
            values[system] = ndcg_at_10(found, split, documents, collection, model.similarity_fn_name)
        result[collection.name] = {system: float(own.mean()) for system, own in values.items()}
        result[collection.name]["p_new_vs_old"] = paired_p_value(values["new"], values["old"])
        result[collection.name]["queries"] = len(split)
        print(collection.name, result[collection.name], flush=True)
    return result


def routed_on_held_out(by_rule: dict[str, PilotLibrary]) -> dict[str, float]:
    """Return rule → mean gain of routing on the held-out queries that chose no expert, in folds of pilots."""
    raw = by_rule["old"]
    measured = np.flatnonzero(raw.measured)
    sources = np.array(raw.sources)
    unselected = np.array([is_measured_on(text) for text in raw.examples], bool)
    means = {}
    for rule, library in by_rule.items():
        policy = RoutingPolicy(make_router("gain", library))
        gains = np.full(len(library), np.nan)
        for fold in contiguous_folds(sources[measured], FOLDS):
            rows = measured[fold]
            kept = np.ones(len(library), bool)
            kept[rows] = False
            without = replace(policy, router=policy.router.over(library.only(kept)))
            decided = without.decide(library.centroids[rows]).weights
            weights = decided[:, 2:] + decided[:, 1:2] / len(library.experts)
            gains[rows] = (weights * raw.gains[rows]).sum(axis=1)
        by_collection = [np.nanmean(gains[(sources == name) & unselected]) for name in library.collections()]
        means[rule] = float(np.mean(by_collection))
    return means


def summary(experts: dict[str, dict[str, Any]], routed: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Return the gaps between published and test gains, and the means of routing."""

    def gap(rows: Sequence[dict[str, Any]], published: str, tested: str) -> dict[str, float]:
        differences = np.array([row[published] - row[tested] for row in rows])
        return {
            "mean_absolute": float(np.abs(differences).mean()),
            "mean": float(differences.mean()),
        }

    rows = list(experts.values())
    kept = [row for row in rows if not row["refused"]]
    result: dict[str, Any] = {
        "gap_old": gap(rows, "old_gain", "old_test_gain"),
        "gap_new": gap(rows, "gain", "test_gain"),
        "gap_of_selection": gap(rows, "selection_gain", "test_gain"),
        "gap_new_of_kept": gap(kept, "gain", "test_gain") if kept else None,
        "refused": [name for name, row in experts.items() if row["refused"]],
        "refused_by_old": [name for name, row in experts.items() if row["old_gain"] <= 0],
    }
    for group, names in (("with expert", REAL.experts), ("without expert", REAL.unseen)):
        own = [routed[name] for name in names if name in routed]
        for system in ("base", "old", "new"):
            if own:
                mean = float(np.mean([row[system] for row in own]))
                result.setdefault("routed", {}).setdefault(group, {})[system] = mean
    return result


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--keep", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "honest_gains.json")
    parser.add_argument("--experts", nargs="*", default=REAL.experts)
    parser.add_argument("--unseen", nargs="*", default=REAL.unseen)
    return parser.parse_args()


def main() -> None:
    """Train, route and write the figures."""
    quiet_libraries()
    given = arguments()
    figures_file = given.keep.with_suffix(".figures.json")
    experts: dict[str, dict[str, Any]] = {}
    if figures_file.exists():
        experts = json.loads(figures_file.read_text())
    model = RouterRetriever.create()
    if given.keep.exists():
        model = RouterRetriever.from_pretrained(given.keep)
    for name in given.experts:
        if name not in experts or name not in model.experts:
            _, experts[name] = train(model, Collection.load(given.data / name, cut_off=True))
            model.save_pretrained(given.keep)
            figures_file.write_text(json.dumps(experts, indent=2))
        print(name, experts[name], flush=True)

    measurements = [
        measure_gains(model, Collection.load(given.data / name, cut_off=True)) for name in given.experts
    ]
    by_rule = libraries(model, measurements)
    held_out = routed_on_held_out(by_rule)
    print("routed gain on held-out queries that chose nothing:", held_out, flush=True)
    model.state = model.state.with_policy(RoutingPolicy(make_router("gain", by_rule["new"])))
    model.save_pretrained(given.keep)
    names = [*given.experts, *given.unseen]
    routed = routed_on_test(
        model, by_rule, [Collection.load(given.data / name, cut_off=True) for name in names]
    )
    document = {
        "command": f"python benchmarks/honest_gains.py DATA --keep MODEL --experts {' '.join(given.experts)}",
        "seed": SEED,
        "test_queries": LIMIT,
        "summary": summary(experts, routed),
        "routed_gain_held_out": held_out,
        "experts": {name: experts[name] for name in REAL.experts if name in experts},
        "routed": routed,
    }
    given.out.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(document["summary"], indent=2))


if __name__ == "__main__":
    main()
