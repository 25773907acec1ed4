"""What maps gain beside LoRA: alone, behind LoRA factors, and chosen by held-out queries.

    python benchmarks/kinds.py DATA OUT.json --models MODEL … [--only NAME …]

Each MODEL holds LoRA experts of DATA's collections, of the seeds 0, 1 and so on, and MODEL-map maps, as `bench`
keeps them below its output folder for suites/anchored.yaml. A map is trained behind each LoRA expert. Held-out queries
that choose decide what `auto` keeps; all gains are of test queries, and of short texts of documents, which nothing was
chosen by. What OUT.json has already is not measured again.
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
from core import surroundings
from honest_gains import test_gains

from routerretriever import Collection, RouterRetriever, TrainingConfig
from routerretriever.cli.common import quiet_libraries
from routerretriever.encoder.query_batch import HIDDEN_BUDGET
from routerretriever.experts.held_out import HeldOutPlan, HeldOutScores
from routerretriever.experts.kinds import KindTraining, on_device
from routerretriever.experts.other_styles import measure_other_styles
from routerretriever.experts.trainer import Chosen
from routerretriever.experts.training_data import TrainingData
from routerretriever.lora.adapter import Adapter
from routerretriever.progress import Silent


def measured(
    model: RouterRetriever, mapped: RouterRetriever, collection: Collection, seed: int
) -> dict[str, Any]:
    """Return test gains, selecting gains, gains on other ways of asking, bytes and seconds of each kind."""
    vectors = model.embed_collection(collection)
    config = TrainingConfig(seed=seed, anchor=0.0)  # maps have no anchors
    data = TrainingData.prepare(model, collection, vectors, config, HIDDEN_BUDGET)
    plan = HeldOutPlan.of([collection.division_keys(data.held_out)])
    first = replace(plan, parts=plan.parts[:1])
    training = KindTraining(
        model=model, data=[data], config=config, name=collection.name, plan=first, progress=Silent()
    )

    def known(adapter: Adapter) -> Chosen:
        return Chosen(adapter, 1.0, HeldOutScores((data.evaluate(on_device(adapter, model.encoder)),)))

    lora = known(model.state.experts[collection.name])
    base = HeldOutScores((data.evaluate(lora.adapter.scaled(0.0)),))
    chosen = {"lora": lora, "map": known(mapped.state.experts[collection.name])}
    # Where LoRA beat nothing on the queries that choose, a map stands alone.
    gains_nothing = (model.experts[collection.name].selection_gain or 0.0) <= 0
    began = time.perf_counter()
    chosen["both"] = chosen["map"] if gains_nothing else training.behind([lora], base).chosen[0]
    seconds = round(time.perf_counter() - began, 1)

    selects = first.parts[0].selects
    selecting = {kind: found.scores.mean(selects) - base.mean(selects) for kind, found in chosen.items()}
    tested = test_gains(model, collection, {kind: found.adapter for kind, found in chosen.items()})
    auto = max(selecting, key=lambda kind: selecting[kind])
    styles = {kind: _on_other_styles(model, data, found.adapter, seed) for kind, found in chosen.items()}
    return {
        "train_queries": len(data.train),
        "auto": auto,
        "selecting_gain": selecting,
        "test_gain": {**{kind: gain for kind, (gain, _) in tested.items()}, "auto": tested[auto][0]},
        "other_styles_gain": styles | {"auto": styles[auto]},
        "test_p": {kind: p for kind, (_, p) in tested.items()},
        "bytes": {kind: found.adapter.nbytes for kind, found in chosen.items()},
        "seconds_of_both": seconds,
    }


def _on_other_styles(model: RouterRetriever, data: TrainingData, adapter: Adapter, seed: int) -> float | None:
    """Return the gain on short texts of the documents; ``None`` where there are too few."""
    found = measure_other_styles(model, [data], on_device(adapter, model.encoder), seed)
    return None if found is None else found.gain


def means(rows: Sequence[Mapping[str, Any]], figure: str) -> dict[str, float]:
    """Return kind → the mean of a figure over all experts."""
    kinds = ("lora", "map", "both", "auto")
    return {kind: float(np.mean([row[figure][kind] for row in rows])) for kind in kinds}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--models", type=Path, nargs="+", required=True)
    parser.add_argument("--only", nargs="*")
    args = parser.parse_args()
    quiet_libraries()
    rows: list[dict[str, Any]] = json.loads(args.out.read_text())["rows"] if args.out.exists() else []
    for seed, path in enumerate(args.models):
        model = RouterRetriever.from_pretrained(path)
        mapped = RouterRetriever.from_pretrained(path.with_name(f"{path.name}-map"))
        for name in args.only or model.experts:
            setting = {"seed": seed, "expert": name}
            if any(setting.items() <= row.items() for row in rows):
                continue
            collection = Collection.load(args.data / name, cut_off=True)
            rows.append(setting | measured(model, mapped, collection, seed))
            print(json.dumps(rows[-1]), flush=True)
            summary = {figure: means(rows, figure) for figure in ("test_gain", "other_styles_gain")}
            result = {
                "command": "python benchmarks/kinds.py DATA benchmarks/kinds.json --models MODEL …",
                **surroundings(),
                "mean": summary,
                "rows": rows,
            }
            args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(
        json.dumps({figure: means(rows, figure) for figure in ("test_gain", "other_styles_gain")}, indent=2)
    )


if __name__ == "__main__":
    main()
