"""What words cost a search: the default search beside that by vectors alone, in paired rounds.

    python benchmarks/speed_hybrid.py DATA [--documents N] [--out FILE]

The texts are the beginnings of those of DATA's collections, repeated with other words at their end until there are N
documents; the vectors lie around a few thousand centres, and so do those of the queries, whose texts are real. Nothing
is encoded, so that only the index is measured: by vectors alone, by vectors and words as in domain, and by both with
neighbours, as out of domain.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from core import surroundings
from speed_timing import paired, summary, using_threads
from speed_vectors import QUERIES, clustered

from routerretriever import Collection, Document, Index, RouterRetriever
from routerretriever.cli.common import quiet_libraries
from routerretriever.index.querying import EncodedQueries
from routerretriever.kernels.vectors import Vectors
from routerretriever.routing.search_plan import SearchPlan

NAMES = (
    "bankfaq",
    "mitre_attack",
    "nl2bash",
    "finqa10k",
    "cosqa",
    "nfcorpus",
    "scifact",
    "obliqa",
    "climate_fever",
)
LENGTH = 600
"""Characters of a text: few enough for the base to read it whole, so that it is one passage."""


def documents(data: Path, count: int) -> Iterator[Document]:
    """Yield documents of all collections, again and again, each time with another word at the end."""
    texts = []
    for name in NAMES:
        texts += [document.content[:LENGTH] for document in Collection.load(data / name).documents]
    for number in range(count):
        again, row = divmod(number, len(texts))
        yield Document(str(number), f"{texts[row]} copy{again}" if again else texts[row])


def filled(folder: Path, data: Path, model: RouterRetriever, vectors: Vectors) -> Index:
    """Return an index with these vectors and real texts."""
    index = Index.create(folder / "index", model)
    following = itertools.cycle(vectors)
    index.upsert(
        documents(data, len(vectors)), encode=lambda texts: np.stack([next(following) for _ in texts])
    )
    index.refresh()
    return index


def queries(data: Path, vectors: Vectors) -> list[tuple[str, Vectors]]:
    """Return real queries with vectors near those of the documents."""
    texts: list[str] = []
    for name in NAMES:
        texts += list(
            Collection.load(data / name).split("test").sample(QUERIES // len(NAMES) + 1).queries.values()
        )
    return list(zip(texts, vectors[:, None], strict=False))


def measured(index: Index, asked: list[tuple[str, Vectors]], threads: int) -> dict[str, Any]:
    """Return the milliseconds of a query in each mode."""
    following = {mode: itertools.cycle(asked) for mode in ("vector", "hybrid", "hybrid with neighbours")}

    def search(mode: str) -> Any:
        text, vector = next(following[mode])
        plan = SearchPlan(vector_weight=0.95, reason="measured", neighbours=mode.endswith("neighbours"))
        encoded = EncodedQueries(queries=[text], vectors=vector, experts=["base"], plans=[plan])
        return index.answer_encoded(encoded, 10, mode="vector" if mode == "vector" else "hybrid")

    systems = {mode: lambda mode=mode: search(mode) for mode in following}
    with using_threads(threads):
        return {"documents": len(index), "threads": threads, **summary(paired(systems), "vector")}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    quiet_libraries()
    model = RouterRetriever.create()
    vectors = np.concatenate(list(clustered(args.documents, model.dimension, 1)))
    asked = queries(args.data, np.concatenate(list(clustered(QUERIES, model.dimension, 2))))
    with tempfile.TemporaryDirectory() as folder:
        index = filled(Path(folder), args.data, model, vectors)
        rows = [measured(index, asked, threads) for threads in (1, 2)]
    result = {"command": "python benchmarks/speed_hybrid.py DATA", **surroundings(), "rows": rows}
    print(json.dumps(result, indent=2))
    if args.out is not None:
        args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
