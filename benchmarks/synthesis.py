"""What experts gain that learnt from generated queries, against those of true ones, on true test queries.

    python benchmarks/synthesis.py DATA OUT.json [--only NAME…] [--methods true,crops,titles,mixture]

DATA holds the collections in BEIR's layout. Every cell, a collection and a method, is a model of its own with a single
expert. It is written as soon as it is measured; an interrupted run goes on with the next, and a training with its last
checkpoint. A cell also has what the router makes of the expert when all it knows are gains on generated held-out
queries; where the expert does not help, also when it knows gains on true ones.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

from core import REAL, surroundings

from routerretriever import Collection, RouterRetriever, TrainingConfig, evaluate, train_expert
from routerretriever.cli.common import quiet_libraries
from routerretriever.experts.training_config import TrainedKinds
from routerretriever.progress import Bars
from routerretriever.storage.cache_directory import cache_directory
from routerretriever.synthesis import SynthesisConfig, synthesize

METHODS = ("true", "crops", "titles", "mixture")
LIMIT, SEED = 500, 0


def measured(
    data: Path, name: str, method: Any, queries: int, config: TrainingConfig, limit: int
) -> dict[str, Any]:
    """One cell: make queries, train, build the library, test."""
    true = Collection.load(data / name, cut_off=True)
    model = RouterRetriever.create()
    made: dict[str, Any] = {}
    source = true
    if method != "true":
        folder = cache_directory() / "benchmarks" / "synthesis" / f"{name}-{method}"
        report = synthesize(
            data / name,
            folder,
            model=model,
            config=SynthesisConfig(method=method, queries=queries, seed=SEED),
            force=True,
            progress=Bars(),
        )
        made = {"made": report.generated, "kept": report.kept, "dropped": dict(report.dropped)}
        source = replace(Collection.load(folder, cut_off=True), name=name)
    trained = train_expert(model, source, name=name, config=config, force=True, progress=Bars())
    model.build_library([source], progress=Bars())
    tested = _tested(model, true, limit)
    systems = tested["systems"]
    base, expert, routed = (systems[system]["nDCG@10"] for system in ("base", f"expert:{name}", "routed"))
    if expert <= base:
        model.build_library([true], progress=Bars())
        judged = _tested(model, true, limit)
        made["judged_pilots"] = {
            "routed_gain": judged["systems"]["routed"]["nDCG@10"] - base,
            "chosen": judged["chosen"],
        }
    return {
        **made,
        "train": trained.info.queries,
        "held_out": trained.info.held_out,
        "held_out_gain": trained.info.gain,
        "steps": trained.steps,
        "strength": trained.adapter_weight,
        "seconds": trained.seconds,
        "test_queries": tested["queries"],
        "base": base,
        "expert": expert,
        "p_vs_base": systems[f"expert:{name}"]["p_vs_base"],
        "gain": expert - base,
        "routed": routed,
        "routed_gain": routed - base,
        "chosen": tested["chosen"],
        # Without --force `train` refuses what gains nothing on held-out queries.
        "would_be_added": trained.info.gain > 0,
    }


def _tested(model: RouterRetriever, collection: Collection, limit: int) -> dict[str, Any]:
    result = evaluate(model, [collection], limit=limit, seed=SEED, progress=Bars()).to_dict()
    tested: dict[str, Any] = result["collections"][collection.name]
    return tested


def summary(cells: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Means over collections, and how far held-out gains foretell true ones."""
    result: dict[str, Any] = {}
    for method in METHODS:
        done = {name: row[method] for name, row in cells.items() if method in row}
        if not done:
            continue
        harmful = [name for name, cell in done.items() if cell["gain"] <= 0]
        result[method] = {
            "collections": list(done),
            **{
                key: statistics.mean(cell[key] for cell in done.values())
                for key in ("base", "expert", "routed")
            },
            "held_out_gain": statistics.mean(cell["held_out_gain"] for cell in done.values()),
            "gain": statistics.mean(cell["gain"] for cell in done.values()),
            "without gain": harmful,
            "without gain, refused in training": [
                name for name in harmful if not done[name]["would_be_added"]
            ],
            "without gain, routed not below base": [
                name for name in harmful if done[name]["routed_gain"] >= 0
            ],
            "the same with judged pilots": [name for name in harmful if _recognised(done[name])],
        }
    return result


def _recognised(cell: dict[str, Any]) -> bool:
    return "judged_pilots" in cell and bool(cell["judged_pilots"]["routed_gain"] >= 0)


def main() -> None:
    """Measure the cells that are missing in the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="+", default=REAL.experts, help="collections")
    parser.add_argument("--methods", default=",".join(METHODS), help="comma-separated")
    parser.add_argument(
        "--queries", type=int, default=SynthesisConfig().queries, help="generated a collection"
    )
    parser.add_argument("--epochs", type=int, default=TrainingConfig().epochs)
    parser.add_argument("--limit", type=int, default=LIMIT, help="test queries a collection")
    parser.add_argument(
        "--kind", choices=list(TrainedKinds), default=TrainedKinds.LORA, help="of the experts"
    )
    given = parser.parse_args()
    settings = {"queries": given.queries, "epochs": given.epochs, "limit": given.limit, "seed": SEED}
    if given.kind != TrainedKinds.LORA:
        settings["kind"] = given.kind
    content: dict[str, Any] = {"settings": settings, "cells": {}}
    if given.out.exists():
        content = json.loads(given.out.read_text(encoding="utf-8"))
        if content["settings"] != settings:
            parser.error(f"{given.out} was begun with {content['settings']}; give another file")
    config = replace(TrainingConfig(), epochs=given.epochs, kind=given.kind, anchor=0.0)
    for name in given.only:
        for method in given.methods.split(","):
            row = content["cells"].setdefault(name, {})
            if method in row:
                continue
            row[method] = measured(given.data, name, method, given.queries, config, given.limit)
            print(
                name,
                method,
                {key: row[method][key] for key in ("base", "expert", "routed", "held_out_gain")},
                flush=True,
            )
            options = f"--queries {given.queries} --kind {given.kind}"
            content |= {
                "command": f"python benchmarks/synthesis.py DATA OUT.json {options}",
                **surroundings(),
            }
            content["summary"] = summary(content["cells"])
            temporary = given.out.with_suffix(".tmp")
            temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            temporary.replace(given.out)
    print(json.dumps(content.get("summary", {}), indent=2))


if __name__ == "__main__":
    quiet_libraries()
    main()
