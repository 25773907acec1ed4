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
from honest_gains import SEED, test_gains

from routerretriever import Collection, RouterRetriever, TrainingConfig
from routerretriever.cli.common import quiet_libraries
from routerretriever.encoder.query_batch import HIDDEN_BUDGET
from routerretriever.experts.held_out import HeldOutPlan, HeldOutScores
from routerretriever.experts.kinds import KindTraining, on_device
from routerretriever.experts.trainer import Chosen
from routerretriever.experts.training_data import TrainingData
from routerretriever.progress import Silent


def measured(model: RouterRetriever, collection: Collection) -> dict[str, Any]:
    """Return test gains, selecting gains, bytes and seconds of each kind."""
    vectors = model.embed_collection(collection)
    config = TrainingConfig(seed=SEED, anchor=0.0, map_averaged_epochs=0.0)
    data = TrainingData.prepare(model, collection, vectors, config, HIDDEN_BUDGET)
    plan = HeldOutPlan.of([collection.division_keys(data.held_out)])
    first = replace(plan, parts=plan.parts[:1])
    training = KindTraining(
        model=model, data=[data], config=config, name=collection.name, plan=first, progress=Silent()
    )

    lora = model.state.experts[collection.name]
    known = Chosen(lora, 1.0, HeldOutScores((data.evaluate(on_device(lora, model.encoder)),)))
    base = HeldOutScores((data.evaluate(lora.scaled(0.0)),))
    chosen, seconds = {"lora": known}, {}
    for kind, train in (("map", training.map), ("both", lambda: training.behind([known], base))):
        began = time.perf_counter()
        chosen[kind] = train().chosen[0]
        seconds[kind] = round(time.perf_counter() - began, 1)

    selects = first.parts[0].selects
    selecting = {kind: found.scores.mean(selects) - base.mean(selects) for kind, found in chosen.items()}
    tested = test_gains(model, collection, {kind: found.adapter for kind, found in chosen.items()})
    auto = max(selecting, key=lambda kind: selecting[kind])
    return {
        "train_queries": len(data.train),
        "auto": auto,
        "selecting_gain": selecting,
        "test_gain": {**{kind: gain for kind, (gain, _) in tested.items()}, "auto": tested[auto][0]},
        "test_p": {kind: p for kind, (_, p) in tested.items()},
        "bytes": {kind: found.adapter.nbytes for kind, found in chosen.items()},
        "seconds": seconds,
    }


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
        rows[name] = measured(model, Collection.load(args.data / name, cut_off=True))
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
