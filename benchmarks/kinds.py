"""What maps gain beside LoRA: alone, behind LoRA factors, and chosen by held-out queries.

    python benchmarks/kinds.py MODEL DATA [OUT.json] [--only NAME …]

MODEL holds LoRA experts of DATA's collections, such as benchmarks/honest_gains.py keeps. For each of them a map is
trained on the base's vectors and another one behind the expert, both with seed 0. Held-out queries that choose
decide what `auto` keeps; all gains are of test queries.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from core import surroundings

from routerretriever import Collection, RouterRetriever, TrainingConfig
from routerretriever.cli.common import quiet_libraries
from routerretriever.encoder.query_batch import HIDDEN_BUDGET, EncodedQueries
from routerretriever.evaluation.runs import ndcg_at_10
from routerretriever.evaluation.statistics import paired_p_value
from routerretriever.experts.held_out import HeldOutPlan, HeldOutScores
from routerretriever.experts.kinds import KindTraining, on_device
from routerretriever.experts.trainer import Chosen
from routerretriever.experts.training_data import TrainingData
from routerretriever.lora.adapter import Adapter
from routerretriever.lora.layers import TrainingPlan
from routerretriever.progress import Silent

LIMIT, SEED = 500, 0


def size(adapter: Adapter) -> int:
    """Return the bytes of the factors."""
    return sum(factor.numel() * factor.element_size() for factor in adapter.parameters())


def measured(model: RouterRetriever, collection: Collection) -> dict[str, Any]:
    """Return test gains, selecting gains, bytes and seconds of each kind."""
    vectors = model.embed_collection(collection)
    config = TrainingConfig(seed=SEED)
    data = TrainingData.prepare(model, collection, vectors, config, HIDDEN_BUDGET)
    plan = HeldOutPlan.of([collection.division_keys(data.held_out)])
    first = replace(plan, parts=plan.parts[:1])
    training = KindTraining(
        model=model, data=[data], config=config, name=collection.name, plan=first, progress=Silent()
    )

    lora = model.state.experts[collection.name]
    known = Chosen(lora, 1.0, HeldOutScores((data.evaluate(on_device(lora, model.encoder)),)))
    chosen, seconds = {"lora": known}, {}
    for kind, start in (("map", None), ("both", known)):
        began = time.perf_counter()
        chosen[kind] = training.mapped(start)
        seconds[kind] = round(time.perf_counter() - began, 1)

    selects = first.parts[0].selects
    base = HeldOutScores((data.evaluate(lora.scaled(0.0)),)).mean(selects)
    selecting = {kind: found.scores.mean(selects) - base for kind, found in chosen.items()}
    tested = test_gains(model, collection, {kind: found.adapter for kind, found in chosen.items()})
    auto = max(selecting, key=lambda kind: selecting[kind])
    return {
        "train_queries": len(data.train),
        "auto": auto,
        "selecting_gain": selecting,
        "test_gain": {**{kind: row["gain"] for kind, row in tested.items()}, "auto": tested[auto]["gain"]},
        "test_p": {kind: row["p"] for kind, row in tested.items()},
        "bytes": {kind: size(found.adapter) for kind, found in chosen.items()},
        "seconds": seconds,
    }


def test_gains(
    model: RouterRetriever, collection: Collection, adapters: dict[str, Adapter]
) -> dict[str, dict[str, float]]:
    """Return the gain of each adapter on test queries, and its p-value."""
    split = collection.split("test").sample(LIMIT, SEED)
    queries = EncodedQueries.of(model.encoder, list(split.queries.values()), model.query_prompt)
    documents = model.embed_collection(collection)

    def scores(plan: TrainingPlan | None) -> Any:
        found = queries.vectors(plan)
        return ndcg_at_10(found, split, documents, collection, model.similarity_fn_name)

    base, rows = scores(None), {}
    for kind, adapter in adapters.items():
        own = scores(TrainingPlan(on_device(adapter, model.encoder)))
        rows[kind] = {"gain": float((own - base).mean()), "p": paired_p_value(own, base)}
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--only", nargs="*")
    args = parser.parse_args()
    quiet_libraries()
    model = RouterRetriever.from_pretrained(args.model)
    rows = {}
    for name in args.only or model.experts:
        rows[name] = measured(model, Collection.load(args.data / name))
        print(name, json.dumps(rows[name]), flush=True)
    means = {
        kind: float(np.mean([row["test_gain"][kind] for row in rows.values()]))
        for kind in ("lora", "map", "both", "auto")
    }
    only = f" --only {' '.join(args.only)}" if args.only else ""
    result = {"command": "python benchmarks/kinds.py MODEL DATA" + only, **surroundings(), "mean": means}
    print(json.dumps(means, indent=2))
    if args.out is not None:
        args.out.write_text(json.dumps({**result, "experts": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
