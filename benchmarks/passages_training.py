"""What training by passages gains over training on beginnings: nDCG@10 of test queries, ranked by passages.

    python benchmarks/passages_training.py --out benchmarks/passages_training.json scifact pubmedqa

Every collection is taken as it is and *joined*: documents put together in fives, where a long text is relevant if
one of its documents is. An expert of each kind is trained twice: on the beginnings of documents (``cut_off``), and
on the passage of each document that the frozen base finds nearest to the query. Test queries then search by
vectors alone; documents count by their best passage, and, for reference, by their beginning.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from passages import REAL, joined

from routerretriever import Collection, RouterRetriever, TrainingConfig, train_expert
from routerretriever.cli.common import quiet_libraries
from routerretriever.data.splits import Split
from routerretriever.evaluation.runs import ndcg_at_10
from routerretriever.evaluation.statistics import paired_p_value
from routerretriever.experts.training_config import TrainedKinds

WAYS = {"cut_off": True, "passages": False}


def sampled(collection: Collection, queries: int, others: int) -> Collection:
    """Return some queries of each split, their relevant documents, and others at random."""
    splits = {name: split.sample(queries) for name, split in collection.splits.items()}
    judged = {d for split in splits.values() for found in split.qrels.values() for d in found}
    rest = [document for document in collection.documents if document.id not in judged]
    random.Random(0).shuffle(rest)
    kept = {*judged, *(document.id for document in rest[:others])}
    documents = tuple(document for document in collection.documents if document.id in kept)
    return replace(collection, documents=documents, splits=splits)


def put_together(collection: Collection) -> Collection:
    """Return a collection of documents put together in fives."""
    splits = {}
    documents = list(collection.documents)
    for name, split in collection.splits.items():
        grades = {query: dict(found) for query, found in split.qrels.items()}
        long, moved = joined(documents, grades)
        splits[name] = Split(name, split.queries, moved)
    return replace(collection, name=f"{collection.name}-joined", documents=tuple(long), splits=splits)


def measured(collection: Collection, kinds: list[TrainedKinds]) -> dict[str, Any]:
    """Train experts both ways, and return the test figures of each."""
    model = RouterRetriever.create()
    vectors, info = {}, {}
    for way, cut_off in WAYS.items():
        source = replace(collection, cut_off=cut_off)
        vectors[way] = model.embed_collection(source)
        for kind in kinds:
            name = f"{kind}-{way}"
            config = TrainingConfig(kind=kind, anchor=0.0)
            report = train_expert(model, source, name=name, config=config, force=True)
            info[name] = {"held_out_gain": round(100 * report.info.gain, 2), "seconds": round(report.seconds)}

    split = collection.split("test")
    texts = list(split.queries.values())
    scores: dict[str, dict[str, np.ndarray]] = {}
    for system in ("base", *info):
        queries = model.encode_query(texts, expert=system)
        scores[system] = {}
        for way, documents in vectors.items():
            scores[system][way] = ndcg_at_10(queries, split, documents, collection)
    rows: dict[str, Any] = {}
    for system, by_way in scores.items():
        rows[system] = {way: round(100 * float(values.mean()), 2) for way, values in by_way.items()}
        rows[system] |= info.get(system, {})
    for kind in kinds:
        one, other = (scores[f"{kind}-{way}"]["passages"] for way in ("passages", "cut_off"))
        rows[f"{kind}-passages"]["p_against_cut_off"] = round(paired_p_value(one, other), 4)
    return {"documents": vectors["passages"].counts.to_dict(), "test_queries": len(split), "systems": rows}


def main() -> None:
    """Measure the collections, as they are and joined."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("collections", nargs="+")
    parser.add_argument("--data", type=Path, default=REAL)
    parser.add_argument("--queries", type=int, default=500, help="of each split, at most")
    parser.add_argument("--others", type=int, default=500, help="documents beside the judged ones")
    parser.add_argument("--kinds", nargs="+", default=["lora", "map"])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    quiet_libraries()
    results: dict[str, Any] = {}
    for name in given.collections:
        whole = sampled(Collection.load(given.data / name), given.queries, given.others)
        for collection in (put_together(whole), whole):
            found = measured(collection, [TrainedKinds(kind) for kind in given.kinds])
            results[collection.name] = found
            print(json.dumps({collection.name: found}), flush=True)
            if given.out:
                given.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
