"""Whether a generalist transfers better if the rarest words of its training queries are masked.

    python benchmarks/entity_masking.py DATA OUT.json [--queries N] [--seeds 0 1] [--shares 0 0.5 1]

After Route-to-Rerank (arXiv 2511.19987), which masks entities of the queries that a reranker's experts learn from. No
tagger is needed here: a third of a query's words, the rarest in its collection, become the base's mask token. One LoRA
expert is trained on all collections of suites/real.yaml that have training queries, with some share of these masked,
and measured on test queries of the collections without an expert. What OUT.json has already is not measured again.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from core import REAL, surroundings
from merge_weights import Asked

from routerretriever import Collection, RouterRetriever, TrainingConfig, train_expert
from routerretriever.cli.common import quiet_libraries
from routerretriever.data.text import stable_hash
from routerretriever.passages.word_statistics import WORD, WordStatistics

MASKED_WORDS = 1 / 3
"""Of a query, at least one."""

QUERIES, EPOCHS = 300, 4
"""Of each collection, so that one training takes minutes."""


def masked(collection: Collection, share: float, token: str, queries: int, seed: int) -> Collection:
    """Return a collection with some of its training queries masked; held-out queries stay as they are."""
    train, held_out = collection.train_and_held_out()
    train = train.sample(queries, seed)
    statistics = WordStatistics.of([document.content for document in collection.documents])
    texts = dict(train.queries)
    for query_id, text in train.queries.items():
        if int(stable_hash(f"{seed}:{query_id}"), 16) % 1000 < 1000 * share:
            texts[query_id] = masked_text(text, statistics, token)
    return replace(collection, splits={"train": replace(train, queries=texts), "dev": held_out})


def masked_text(text: str, statistics: WordStatistics, token: str) -> str:
    """Return a query without its rarest words, which a collection that lacks them has in no document."""
    words = list(WORD.finditer(text))
    rarest = sorted(words, key=lambda word: -statistics.idf.get(word[0].lower(), math.inf))
    for word in sorted(rarest[: math.ceil(MASKED_WORDS * len(words))], key=lambda word: -word.start()):
        text = text[: word.start()] + token + text[word.end() :]
    return text


def measured(
    model: RouterRetriever, sources: list[Collection], asked: Mapping[str, Asked], seed: int
) -> dict[str, Any]:
    """Train one generalist and return its gains."""
    config = TrainingConfig(epochs=EPOCHS, seed=seed)
    report = train_expert(model, sources, name="generalist", config=config, force=True)
    adapter = model.state.experts["generalist"]
    gains = {name: queries.gain(adapter) for name, queries in asked.items()}
    return {"held_out": report.info.gain, "gains": gains, "seconds": round(report.seconds, 1)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--queries", type=int, default=QUERIES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--shares", type=float, nargs="+", default=[0.0, 0.5, 1.0])
    args = parser.parse_args()
    quiet_libraries()
    rows: list[dict[str, Any]] = json.loads(args.out.read_text())["rows"] if args.out.exists() else []
    model = RouterRetriever.create()
    token = model.tokenizer.mask_token
    sources = [Collection.load(args.data / name, cut_off=True) for name in REAL.experts]
    unseen = [Collection.load(args.data / name, cut_off=True) for name in REAL.unseen]
    asked = {source.name: Asked(model, source, source.split("test")) for source in unseen}
    for seed in args.seeds:
        for share in args.shares:
            setting = {"seed": seed, "share": share, "queries": args.queries}
            if any(setting.items() <= row.items() for row in rows):
                continue
            made = [masked(source, share, token, args.queries, seed) for source in sources]
            row = setting | measured(model, made, asked, seed)
            row["mean"] = float(np.mean(list(row["gains"].values())))
            rows.append(row)
            print(json.dumps(row), flush=True)
            result = {
                "command": "python benchmarks/entity_masking.py DATA benchmarks/entity_masking.json",
                **surroundings(),
                "epochs": EPOCHS,
                "rows": rows,
            }
            args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
