"""Words beside vectors: nDCG@10 of both and of their fusion, with and without routing.

    python benchmarks/scale_hybrid.py MODEL DATA OUT.json

MODEL has experts for the collections, DATA their folders. Every collection gets an index of its own with a text index,
exact on the side of the vectors. The weight of the fusion is chosen on held-out queries of all collections together,
for routed queries, and so is whether it beats reciprocal rank fusion (Cormack et al. 2009, k = 60); test queries are
only measured.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from core import surroundings

from routerretriever import Collection, Index, RouterRetriever
from routerretriever.cli import quiet_libraries
from routerretriever.collection import Split
from routerretriever.evaluation import GAIN_MEASURE, Run, measure_run, paired_p_value
from routerretriever.fusion import DEPTH, VECTOR_WEIGHT, fuse
from routerretriever.index_search import Hit, Mode

NAMES = ("bankfaq", "mitre_attack", "nl2bash", "scifact")
WEIGHTS = tuple(round(0.05 * step, 2) for step in range(21))
RRF_K = 60
LIMIT = 500


@dataclass(frozen=True)
class Sides:
    """What each side found for the queries of one split, and both of them by the index itself."""

    split: Split
    runs: Mapping[str, Run]


def run_of(split: Split, hits: list[list[Hit]]) -> Run:
    """Query id → document id → score."""
    return {query: {hit.id: hit.score for hit in found} for query, found in zip(split.queries, hits, strict=True)}


def search(index: Index, split: Split) -> Sides:
    """Every single system, and hybrid search as users have it."""
    texts = list(split.queries.values())
    vectors = {"base": index.model.encode_query(texts, expert="base"), "routed": index.model.encode_query(texts)}
    runs = {"text": run_of(split, index.search_many(texts, DEPTH, mode="text"))}
    modes: tuple[Mode, ...] = ("vector", "hybrid")
    for name, encoded in vectors.items():
        for mode in modes:
            found = index.search_many(texts, DEPTH, vectors=encoded, mode=mode)
            runs[f"{mode} ({name})"] = run_of(split, found)
    return Sides(split, runs)


def fused(sides: Sides, weight: float) -> Run:
    """The convex combination of lists that were searched already.

    A text candidate that is not among the nearest hundred has 0 for its similarity here, where the index computes it.
    """
    vector, text = sides.runs["vector (routed)"], sides.runs["text"]
    return {query: dict(fuse(vector[query], text[query], weight=weight, floor=-1.0)) for query in vector}


def reciprocal(sides: Sides) -> Run:
    """Reciprocal rank fusion."""
    run: Run = {}
    for query in sides.split.queries:
        run[query] = {}
        for side in ("vector (routed)", "text"):
            for rank, document in enumerate(sides.runs[side][query], start=1):
                run[query][document] = run[query].get(document, 0.0) + 1.0 / (RRF_K + rank)
    return run


def ndcg(run: Run, split: Split) -> np.ndarray[Any, np.dtype[np.float64]]:
    """nDCG@10 of every query."""
    return measure_run(run, split, (GAIN_MEASURE,))[GAIN_MEASURE]


def mean(values: list[float]) -> float:
    """Rounded for the file."""
    return round(float(np.mean(values)), 4)


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "data", "out"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args()
    quiet_libraries()
    model = RouterRetriever.from_pretrained(args.model)
    held_out: dict[str, Sides] = {}
    test: dict[str, Sides] = {}
    for name in NAMES:
        collection = Collection.load(str(args.data / name))
        with tempfile.TemporaryDirectory() as scratch:
            index = Index.create(Path(scratch) / "index", model)
            index.upsert(collection.documents, collection=name)
            index.build_index("flat")
            index.build_text_index()
            held_out[name] = search(index, collection.train_and_held_out()[1].sample(LIMIT))
            test[name] = search(index, collection.split("test").sample(LIMIT))

    def over(sides: Mapping[str, Sides], weight: float | None) -> float:
        runs = {name: reciprocal(s) if weight is None else fused(s, weight) for name, s in sides.items()}
        return mean([float(ndcg(runs[name], s.split).mean()) for name, s in sides.items()])

    curve = {str(weight): over(held_out, weight) for weight in WEIGHTS}
    result: dict[str, Any] = {
        "command": "python benchmarks/scale_hybrid.py MODEL DATA OUT.json",
        **surroundings(),
        "held_out": {
            "convex combination, by weight of the vectors": curve,
            "reciprocal rank fusion": over(held_out, None),
            "best weight": float(max(curve, key=curve.__getitem__)),
            "weight in use": VECTOR_WEIGHT,
            "by collection": {
                name: {str(weight): mean([float(ndcg(fused(s, weight), s.split).mean())]) for weight in WEIGHTS}
                for name, s in held_out.items()
            },
        },
        "test": {},
    }
    for name, sides in test.items():
        values = {system: ndcg(run, sides.split) for system, run in sides.runs.items()}
        rows = {system: mean(list(scores)) for system, scores in values.items()}
        gain = values["hybrid (routed)"] - values["vector (routed)"]
        p_value = round(paired_p_value(values["hybrid (routed)"], values["vector (routed)"]), 4)
        result["test"][name] = {
            "queries": len(sides.split.queries),
            "nDCG@10": rows,
            "reciprocal rank fusion (routed)": mean(list(ndcg(reciprocal(sides), sides.split))),
            "hybrid (routed) - vector (routed)": {"gain": round(float(gain.mean()), 4), "p": p_value},
        }
    systems = next(iter(result["test"].values()))["nDCG@10"]
    result["mean"] = {s: mean([row["nDCG@10"][s] for row in result["test"].values()]) for s in systems}
    args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({"mean": result["mean"], "held_out": result["held_out"]}, indent=2))


if __name__ == "__main__":
    main()
