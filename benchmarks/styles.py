"""What an expert does to other ways of asking, and what training on them as well changes.

    python benchmarks/styles.py DATA OUT.json --only NAME … [--shares 0,0.25] [--kind lora]

Queries of another style are made of headings, sentences, phrases and keywords of the documents (`synthesize --with
titles`). A share of them, relative to the true training queries, is added to the training; the true held-out queries
choose the expert. It is measured on true test queries and on generated queries of passages that were held out, at
several adapter weights.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from core import surroundings
from honest_gains import LIMIT, SEED

from routerretriever import Collection, RouterRetriever, TrainingConfig, train_expert
from routerretriever.cli.common import quiet_libraries
from routerretriever.data.splits import Split
from routerretriever.encoder.query_batch import EncodedQueries
from routerretriever.evaluation.runs import ndcg_at_10
from routerretriever.experts.training_config import TrainedKinds
from routerretriever.lora.layers import TrainingPlan
from routerretriever.synthesis import SynthesisConfig, synthesize

GENERATED = 2000
WEIGHTS = (0.5, 0.75, 1.0)


def with_share(true: Collection, generated: Collection, share: float) -> Collection:
    """Return the true collection, with generated queries among those to train on."""
    train, held_out = true.train_and_held_out()
    added = generated.train_and_held_out()[0].sample(round(share * len(train)), SEED)
    both = Split("train", {**train.queries, **added.queries}, {**train.qrels, **added.qrels})
    return replace(true, splits={"train": both, "dev": held_out}, generated=generated.generated)


def measured(data: Path, name: str, shares: list[float], kind: TrainedKinds) -> dict[str, Any]:
    """Return the gains of one collection's experts, by share and adapter weight."""
    model, true = RouterRetriever.create(), Collection.load(data / name, cut_off=True)
    documents = model.embed_collection(true)
    with tempfile.TemporaryDirectory() as folder:
        config = SynthesisConfig(method="titles", queries=GENERATED, seed=SEED)
        synthesize(data / name, Path(folder) / name, model=model, config=config)
        generated = replace(Collection.load(Path(folder) / name, cut_off=True), name=name)
    asked = {
        "true": true.split("test").sample(LIMIT, SEED),
        "generated": generated.train_and_held_out()[1].sample(LIMIT, SEED),
    }
    encoded = {
        style: EncodedQueries.of(model.encoder, list(split.queries.values()), model.query_prompt)
        for style, split in asked.items()
    }

    def means(plan: TrainingPlan | None) -> dict[str, float]:
        found = {}
        for style, split in asked.items():
            vectors = encoded[style].vectors(plan)
            found[style] = float(ndcg_at_10(vectors, split, documents, true, model.similarity_fn_name).mean())
        return found

    base = means(None)
    rows = []
    for share in shares:
        source = with_share(true, generated, share) if share else true
        train_expert(model, source, name="expert", config=TrainingConfig(kind=kind), force=True)
        adapter = model.state.experts["expert"]
        gains: Mapping[str, dict[str, float]] = {
            str(weight): _rounded(
                {k: v - base[k] for k, v in means(TrainingPlan(adapter.scaled(weight))).items()}
            )
            for weight in WEIGHTS
        }
        rows.append({"share": share, "gains by adapter weight": gains})
        print(name, json.dumps(rows[-1]), flush=True)
    return {"base": _rounded(base), "generated queries": len(asked["generated"]), "rows": rows}


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {key: round(value, 4) for key, value in values.items()}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="+", required=True, help="collections")
    parser.add_argument("--shares", default="0,0.25", help="comma-separated")
    parser.add_argument("--kind", choices=list(TrainedKinds), default=TrainedKinds.LORA)
    given = parser.parse_args()
    quiet_libraries()
    shares = [float(share) for share in given.shares.split(",")]
    options = f"--only {' '.join(given.only)} --shares {given.shares} --kind {given.kind}"
    content = {
        "command": f"python benchmarks/styles.py DATA OUT.json {options}",
        **surroundings(),
        "collections": {
            name: measured(given.data, name, shares, TrainedKinds(given.kind)) for name in given.only
        },
    }
    given.out.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
