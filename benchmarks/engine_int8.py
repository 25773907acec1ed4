"""What 8 bits cost: nDCG@10 and routes of a compiled model, beside the same model in fp32.

    python benchmarks/engine_int8.py MODEL DATA [--out FILE] [--only COLLECTION …]

MODEL has experts and pilots; it is compiled twice, into a folder that goes away. Documents are in fp32 (``int8``: only
queries are in 8 bits) and in 8 bits too (``all int8``). The queries of a row are a collection's training queries, at
most --queries of them, which its expert has seen, so that the precision is not chosen on a test split; collections
without an expert of MODEL that have no training queries give their test queries. How long queries take is measured by
`speed.py --only engine`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from core import SEED, surroundings

from routerretriever import Collection, compile_model, open_model
from routerretriever.cli.common import quiet_libraries
from routerretriever.encoder.document_vectors import DocumentVectors
from routerretriever.engine.compiled_model import CompiledModel
from routerretriever.evaluation.runs import ndcg_at_10
from routerretriever.kernels.vectors import Vectors
from routerretriever.passages.passage import Passage

COLLECTIONS = ("bankfaq", "nl2bash", "mitre_attack", "scifact", "nfcorpus", "cranfield", "cacm", "fiqa_mini")
QUERIES = 500
BLOCK = 64


def compiled(model: Path, scratch: Path, precision: str) -> CompiledModel:
    """Return a copy of a model with an engine of a precision."""
    folder = scratch / precision
    shutil.copytree(model, folder)
    compile_model(folder, precision=precision)
    opened = open_model(folder, engine="onnx")
    assert isinstance(opened, CompiledModel)
    return opened


def encoded(model: CompiledModel, queries: list[str], expert: str | None) -> tuple[Vectors, list[str]]:
    """Return the vectors of queries (n, d) and what encoded each."""
    vectors: list[Vectors] = []
    names: list[str] = []
    for start in range(0, len(queries), BLOCK):
        block = queries[start : start + BLOCK]
        found = model.encode_routed(block, None if expert is None else [expert] * len(block))
        vectors.append(found.vectors)
        names += found.experts
    return np.concatenate(vectors), names


def documents(collection: Collection, vectors: Vectors) -> DocumentVectors:
    """Return documents with their vectors, each as one passage."""
    return DocumentVectors(
        documents=collection.documents,
        passages=[Passage.whole(document) for document in collection.documents],
        owners=np.arange(len(collection.documents)),
        vectors=vectors,
    )


def compared(models: dict[str, CompiledModel], collection: Collection, most: int) -> dict[str, Any]:
    """Return one row: by the base, routed, and how often the route is another."""
    split = collection.split("train" if "train" in collection.splits else "test").sample(most, SEED)
    queries = list(split.queries.values())
    fp32 = documents(collection, models["fp32"].embed_texts(collection.contents))
    int8 = documents(collection, models["int8"].embed_texts(collection.contents, precision="int8"))
    row: dict[str, Any] = {"collection": collection.name, "split": split.name, "queries": len(queries)}
    routes = {}
    for expert in ("base", None):
        for precision, model in models.items():
            vectors, routes[precision] = encoded(model, queries, expert)
            kept = {precision: fp32} if precision == "fp32" else {"int8": fp32, "all int8": int8}
            for name, searched in kept.items():
                value = 100 * float(np.mean(ndcg_at_10(vectors, split, searched, collection)))
                row[f"{expert or 'routed'} {name}"] = round(value, 2)
    row["same route"] = round(float(np.mean([a == b for a, b in zip(*routes.values(), strict=True)])), 3)
    print(json.dumps(row), flush=True)
    return row


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", nargs="+", default=COLLECTIONS, metavar="COLLECTION")
    parser.add_argument("--queries", type=int, default=QUERIES)
    args = parser.parse_args()
    quiet_libraries()
    with tempfile.TemporaryDirectory() as scratch:
        models = {name: compiled(args.model, Path(scratch), name) for name in ("fp32", "int8")}
        experts = [
            f"{name} ({models['fp32'].state.experts[name].kind})" for name in models["fp32"].state.experts
        ]
        rows = [
            compared(models, Collection.load(args.data / name, cut_off=True), args.queries)
            for name in args.only
        ]
    change = {
        f"{name} {precision}": round(
            float(np.mean([row[f"{name} {precision}"] - row[f"{name} fp32"] for row in rows])), 2
        )
        for name in ("base", "routed")
        for precision in ("int8", "all int8")
    }
    result = {
        "command": f"python benchmarks/engine_int8.py MODEL DATA --only {' '.join(args.only)}",
        **surroundings(),
        "experts": experts,
        "nDCG@10": rows,
        "mean change": change,
    }
    print(json.dumps(change))
    if args.out is not None:
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
