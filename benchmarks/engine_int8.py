"""Whether 8 bits pay for the engine: time of queries and documents, and what they cost in nDCG@10.

    python benchmarks/engine_int8.py DATA [--out FILE] [--only COLLECTION …]

The base is one graph, quantised as ONNX Runtime does without examples: weights in 8 bits, one scale for each column,
activations by the range of each batch. Documents are in fp32 (``queries``), and in 8 bits too (``both``). Times are
medians of paired rounds, by the clock and by processor time, which other programs disturb less.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from core import mixed_queries, surroundings
from onnxruntime.quantization import QuantType, quantize_dynamic
from plain_base import GRAPH, PlainBase, export_plain
from speed_models import texts_of

from routerretriever import Collection, RouterRetriever
from routerretriever.cli.common import quiet_libraries
from routerretriever.encoder.base_models import load_base
from routerretriever.encoder.document_vectors import DocumentVectors
from routerretriever.evaluation.runs import ndcg_at_10
from routerretriever.kernels.vectors import Vectors
from routerretriever.passages.passage import Passage

COLLECTIONS = ("bankfaq", "med", "mitre_attack", "cranfield", "scifact")
INT8 = "int8.onnx"
THREADS, TOKENS, DOCUMENTS = 2, 16, 128
ROUNDS = {1: 40, 8: 20, 64: 10}


def quantised(folder: Path) -> None:
    """Write the graph in 8 bits beside that in fp32."""
    quantize_dynamic(
        folder / GRAPH,
        folder / INT8,
        per_channel=True,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul", "Gemm"],
    )


def paired(systems: dict[str, Callable[[], Any]], rounds: int) -> dict[str, Any]:
    """Return median milliseconds of each, and the median of the ratios of fp32 to int8."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in systems}
    for number in range(rounds + 1):
        for name in systems if number % 2 else reversed(systems):
            cpu, wall = time.process_time(), time.perf_counter()
            systems[name]()
            seconds[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    result: dict[str, Any] = {}
    for place, what in enumerate(("processor", "clock")):
        columns = {name: [pair[place] for pair in found[1:]] for name, found in seconds.items()}
        medians = {name: round(1e3 * statistics.median(column), 2) for name, column in columns.items()}
        ratios = [wide / narrow for wide, narrow in zip(columns["fp32"], columns["int8"], strict=True)]
        result[f"{what} ms"] = medians
        result[f"times as fast by {what}"] = round(statistics.median(ratios), 2)
    return result


def speed(wide: PlainBase, narrow: PlainBase, texts: Sequence[str], documents: Sequence[str]) -> list[Any]:
    """Return the time of queries alone and in batches, and of documents."""
    rows = []
    for batch, rounds in ROUNDS.items():
        some = texts[:batch]
        systems: dict[str, Callable[[], Any]] = {
            "fp32": lambda some=some: wide.encode(some),  # type: ignore[misc]
            "int8": lambda some=some: narrow.encode(some),  # type: ignore[misc]
        }
        rows.append({"queries": batch, "tokens": TOKENS, "threads": THREADS, **paired(systems, rounds)})
        print(json.dumps(rows[-1]), flush=True)
    systems = {
        "fp32": lambda: wide.encode_in_bulk(documents),
        "int8": lambda: narrow.encode_in_bulk(documents),
    }
    rows.append({"documents": len(documents), "threads": THREADS, **paired(systems, 3)})
    print(json.dumps(rows[-1]), flush=True)
    return rows


def quality(
    collection: Collection, model: RouterRetriever, wide: PlainBase, narrow: PlainBase
) -> dict[str, Any]:
    """Return nDCG@10 in points with fp32, with queries in 8 bits, and with everything in 8 bits."""
    split = collection.split("test")
    queries = list(split.queries.values())
    passages = [Passage.whole(document) for document in collection.documents]

    def points(asked: Vectors, kept: Vectors) -> float:
        found = DocumentVectors(
            documents=collection.documents, passages=passages, owners=np.arange(len(kept)), vectors=kept
        )
        values = ndcg_at_10(asked, split, found, collection)
        return round(100 * float(np.mean(values)), 2)

    by_wide, by_narrow = wide.encode_in_bulk(queries), narrow.encode_in_bulk(queries)
    documents = {"fp32": model.embed_texts(collection.contents)}
    documents["int8"] = narrow.encode_in_bulk(collection.contents)
    row = {
        "collection": collection.name,
        "queries": len(queries),
        "fp32": points(by_wide, documents["fp32"]),
        "queries int8": points(by_narrow, documents["fp32"]),
        "both int8": points(by_narrow, documents["int8"]),
    }
    print(json.dumps(row), flush=True)
    return row


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", nargs="+", default=COLLECTIONS, metavar="COLLECTION")
    args = parser.parse_args()
    quiet_libraries()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        export_plain(load_base("all-MiniLM-L6-v2", "cpu").eval(), folder)
        quantised(folder)
        wide, narrow = PlainBase(folder, THREADS), PlainBase(folder, THREADS, INT8)
        collections = [Collection.load(args.data / name, cut_off=True) for name in args.only]
        model = RouterRetriever.create(device="cpu")
        texts = texts_of(model, mixed_queries(args.data), 64, TOKENS)
        times = speed(wide, narrow, texts, collections[-1].contents[:DOCUMENTS])
        rows = [quality(collection, model, wide, narrow) for collection in collections]
    changes = {
        name: round(float(np.mean([row[name] - row["fp32"] for row in rows])), 2)
        for name in ("queries int8", "both int8")
    }
    result = {
        "command": "python benchmarks/engine_int8.py DATA",
        **surroundings(),
        "speed": times,
        "nDCG@10": rows,
        "mean change": changes,
    }
    print(json.dumps(changes))
    if args.out is not None:
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
