"""What routing gains when pilots ask in two styles: true held-out queries, and generated ones of the same documents.

    python benchmarks/style_pilots.py MODEL DATA OUT.json --only NAME … [--unseen NAME …] [--kind lora] [--queries N]

MODEL keeps one expert for each collection; what is missing is trained on at most N true queries. Queries of another
style are made of headings, sentences, phrases and keywords of the documents (`synthesize --with titles`). Half of
the documents' generated queries go to a collection of their own, whose held-out queries become pilots beside the
true ones; those of the other half are asked. Figures are nDCG@10 of at most 500 queries; `with expert` is the share
of queries that one was applied to.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from core import SEED, surroundings
from styles import generated_of

from routerretriever import Collection, RouterRetriever, TrainingConfig, train_expert
from routerretriever.cli.common import quiet_libraries
from routerretriever.data.splits import Split
from routerretriever.data.text import stable_hash
from routerretriever.evaluation.runs import ndcg_at_10
from routerretriever.experts.training_config import TrainedKinds

GENERATED, ASKED = 2000, 500


def trained(path: Path, collections: Sequence[Collection], config: TrainingConfig) -> RouterRetriever:
    """Return the model with an expert for each collection."""
    model = RouterRetriever.from_pretrained(path) if path.exists() else RouterRetriever.create()
    for collection in collections:
        if collection.name not in model.experts:
            report = train_expert(model, collection, config=config, force=True)
            model.save_pretrained(path)
            print(collection.name, f"{100 * report.info.gain:+.1f}", f"{report.seconds:.0f} s", flush=True)
    return model


def divided(data: Path, true: Collection, model: RouterRetriever) -> tuple[Collection, Split]:
    """Return a collection of generated queries for pilots, and others, of other documents, to be asked."""
    made = generated_of(data, true.name, model, GENERATED)
    train, held_out = made.train_and_held_out()
    keys = zip(train.queries, made.division_keys(train), strict=True)
    asked = train.restrict(query_id for query_id, key in keys if int(stable_hash(f"asked: {key}"), 16) % 2)
    left = train.restrict(train.queries.keys() - asked.queries.keys())
    splits = {"train": left, "dev": held_out}
    pilots = replace(made, name=f"{true.name}-generated", splits=splits)
    return pilots, asked.sample(ASKED, SEED)


def routed(model: RouterRetriever, collection: Collection, split: Split) -> dict[str, float]:
    """Return nDCG@10 of the base, of routed queries, and the share of those with an expert."""
    documents, texts = model.embed_collection(collection), list(split.queries.values())
    routes = model.route(texts)
    figures = {"with expert": sum(route.expert in model.experts for route in routes) / len(routes)}
    for system, expert in (("base", "base"), ("routed", None)):
        vectors = model.encode_query(texts, expert=expert)
        found = ndcg_at_10(vectors, split, documents, collection, model.similarity_fn_name)
        figures[system] = float(found.mean())
    return {key: round(value, 4) for key, value in figures.items()}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="+", required=True, help="collections with an expert")
    parser.add_argument("--unseen", nargs="*", default=[], help="collections without one")
    parser.add_argument("--kind", choices=list(TrainedKinds), default=TrainedKinds.LORA)
    parser.add_argument("--queries", type=int, help="of a collection that train its expert, at most")
    given = parser.parse_args()
    quiet_libraries()
    collections = [Collection.load(given.data / name, cut_off=True) for name in given.only]
    config = TrainingConfig(kind=TrainedKinds(given.kind), max_queries=given.queries, seed=SEED, anchor=0.0)
    model = trained(given.model, collections, config)

    asked: dict[str, tuple[Collection, Split]] = {}
    generated: list[Collection] = []
    for collection in collections:
        asked[f"{collection.name}, true"] = (collection, collection.split("test").sample(ASKED, SEED))
        pilots, split = divided(given.data, collection, model)
        generated.append(pilots)
        asked[f"{collection.name}, generated"] = (collection, split)
        print(collection.name, len(split), "generated queries are asked", flush=True)
    for name in given.unseen:
        collection = Collection.load(given.data / name, cut_off=True)
        asked[f"{name}, unseen"] = (collection, collection.split("test").sample(ASKED, SEED))

    rows: dict[str, dict[str, dict[str, float]]] = {name: {} for name in asked}
    measured: dict[str, dict[str, list[float]]] = {}
    for pilots_are, added in (("true", collections), ("both", generated)):
        means = model.build_library(added).mean_gains()
        measured[pilots_are] = {source: np.round(row, 4).tolist() for source, row in means.items()}
        for name, (collection, split) in asked.items():
            rows[name][pilots_are] = routed(model, collection, split)
            print(pilots_are, name, rows[name][pilots_are], flush=True)
    options = f"--only {' '.join(given.only)} --unseen {' '.join(given.unseen)} --kind {given.kind}"
    if given.queries:
        options += f" --queries {given.queries}"
    content: dict[str, Any] = {
        "command": f"python benchmarks/style_pilots.py MODEL DATA OUT.json {options}",
        **surroundings(),
        "experts": list(model.experts),
        "measured gains by pilots": measured,
        "queries": {name: len(split) for name, (_, split) in asked.items()},
        "by pilots": rows,
    }
    given.out.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
