"""Search at size: what each kind of index costs, finds, and takes, with filters and after changes.

    python benchmarks/scale_search.py MODEL INDEX DATA OUT.json [--kinds auto,ivf_pq] [--changes] [--add]

INDEX holds many documents (benchmarks/scale_ingest.py --large makes one) with a whole number `number` from 0 to 9999 in
each. Queries are real test queries of the collections in DATA, routed by MODEL. Exact neighbours come from a matrix
product over all vectors. Latencies are measured on one core, after every query was asked once. Words are searched
beside the first kind; with --changes a copy of that has a tenth of its documents replaced and another tenth deleted.
INDEX keeps the last kind. The kind `present` is the one INDEX has, which is not built again; with --add what OUT.json
has of other kinds stays there.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import lance
import numpy as np
import psutil
import pyarrow.compute as pc
from core import mixed_queries, surroundings

from routerretriever import Index, RouterRetriever
from routerretriever.cli.common import quiet_libraries
from routerretriever.data.document import Document
from routerretriever.index.parameters import SearchParameters
from routerretriever.index.querying import EncodedQueries, encode_queries
from routerretriever.index.rows import parts_of
from routerretriever.index.search import Mode
from routerretriever.kernels.vectors import Vectors

QUERIES, K = 200, 10
_READER = """
import sys
import numpy
import psutil
from routerretriever import Index
index, queries = Index.open(sys.argv[1]), numpy.load(sys.argv[2])
before = psutil.Process().memory_info().rss
index.search_vectors(queries, 10)
print(psutil.Process().memory_info().rss - before >> 20)
"""
FILTERS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "50%": ("number < 5000", lambda numbers: numbers < 5000),
    "1%": ("number < 100", lambda numbers: numbers < 100),
    "0.01%": ("number = 7", lambda numbers: numbers == 7),
}
SETTINGS = {
    "ivf_flat": [SearchParameters(nprobes=n) for n in (10, 20, 40)],
    "ivf_pq": [SearchParameters(nprobes=n, refine=r) for n, r in ((20, 10), (40, 10), (40, 30))],
    "ivf_rq": [SearchParameters(nprobes=n, refine=r) for n, r in ((10, 5), (20, 10), (40, 10), (80, 20))],
    "hnsw": [SearchParameters(nprobes=1, refine=2, ef=e) for e in (50, 100, 200, 300)],
}


class Truth:
    """The exact neighbours of the queries, by a matrix product over the vectors of an index."""

    def __init__(self, index: Index, queries: Vectors) -> None:
        table = lance.dataset(f"{index.uri}/documents.lance").to_table(
            columns=["id", "number", "text", "vector"]
        )
        self.text_bytes = int(pc.sum(pc.binary_length(table["text"])).as_py())
        self.ids, self.numbers = np.array(table["id"].to_pylist()), table["number"].to_numpy()
        parts = (np.stack(chunk.to_numpy(zero_copy_only=False)) for chunk in table["vector"].chunks)
        self._scores = np.concatenate([queries @ _unit(part).T for part in parts], axis=1)

    def neighbours(self, allowed: Any = slice(None)) -> list[set[str]]:
        """The ids of the k nearest of the allowed rows, for every query."""
        ids, scores = self.ids[allowed], self._scores[:, allowed]
        best = np.argpartition(-scores, min(K, scores.shape[1] - 1), axis=1)[:, :K]
        return [set(ids[row]) for row in best]


def _unit(vectors: Vectors) -> Vectors:
    unit: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


def recall(found: Sequence[Sequence[Any]], truth: Sequence[set[str]]) -> float:
    """Mean share of the exact neighbours that were found."""
    return round(
        float(
            np.mean(
                [
                    len({h.id for h in hits} & best) / len(best)
                    for hits, best in zip(found, truth, strict=True)
                ]
            )
        ),
        4,
    )


@contextmanager
def one_core() -> Iterator[None]:
    """Run every thread of this process on one core."""
    before = os.sched_getaffinity(0)
    _pin({min(before)})
    try:
        yield
    finally:
        _pin(before)


def _pin(cores: set[int]) -> None:
    for thread in psutil.Process().threads():
        os.sched_setaffinity(thread.id, cores)


def asked(
    search: Callable[[Any], list[Any]], queries: Vectors | list[Any]
) -> tuple[list[list[Any]], dict[str, float]]:
    """What each query finds, and the milliseconds of one after another on one core, once warm."""
    with one_core():
        found = [search(query) for query in queries]
        took = []
        for query in queries:
            start = time.perf_counter()
            search(query)
            took.append(1000 * (time.perf_counter() - start))
    ranked = statistics.quantiles(took, n=100)
    return found, {"p50": round(ranked[49], 2), "p95": round(ranked[94], 2), "p99": round(ranked[98], 2)}


class Peak(threading.Thread):
    """The most memory this process took while a block ran, MiB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._process, self._done = psutil.Process(), threading.Event()
        self.before = self.most = self._process.memory_info().rss

    def run(self) -> None:
        while not self._done.wait(0.05):
            self.most = max(self.most, self._process.memory_info().rss)

    def stopped(self) -> int:
        """End, and answer how much more there was than before."""
        self._done.set()
        return round((self.most - self.before) / 2**20)


def size_of(index: Index) -> int:
    """MiB on the disk."""
    return sum(path.stat().st_size for path in Path(index.uri).rglob("*") if path.is_file()) >> 20


def vector_index_mib(index: Index) -> int:
    """What the vector index takes on the disk, MiB."""
    indices = lance.dataset(f"{index.uri}/documents.lance").describe_indices()
    return sum(found.total_size_bytes or 0 for found in indices if "vector" in found.field_names) >> 20


def measured(index: Index, queries: Vectors, truth: Truth, kind: str) -> dict[str, Any]:
    """Build one kind and search it at every setting, without and with filters."""
    peak = Peak()
    peak.start()
    built = index.kind if kind == "present" else index.build_index(kind)
    most = peak.stopped()
    row: dict[str, Any] = {
        "kind": built.kind,
        "why": built.reason,
        "build_seconds": built.seconds,
        "build_memory_mib": None if kind == "present" else most,
        "disk_mib": vector_index_mib(index),
    }
    index.clean(timedelta(0))
    row["search_memory_mib"] = memory(index, queries)
    nearest = truth.neighbours()
    row["settings"] = [_setting(index, queries, nearest, parameters) for parameters in SETTINGS[built.kind]]
    row["filters"] = {name: _filtered(index, queries, truth, *given) for name, given in FILTERS.items()}
    print(json.dumps(row), flush=True)
    return row


def memory(index: Index, queries: Vectors) -> int:
    """MiB that a process takes for searching with the queries, beyond what it has when it opens the index."""
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        np.save(file.name, queries)
        command = [sys.executable, "-c", _READER, index.uri, file.name]
        return int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


def _setting(
    index: Index, queries: Vectors, nearest: list[set[str]], parameters: SearchParameters
) -> dict[str, Any]:
    found, took = asked(
        lambda vector: index.search_vectors(vector[None], K, parameters=parameters)[0], queries
    )
    start = time.perf_counter()
    index.search_vectors(queries, K, parameters=parameters)
    batched = len(queries) / (time.perf_counter() - start)
    return {
        "nprobes": parameters.nprobes,
        "refine": parameters.refine,
        "ef": parameters.ef,
        "recall@10": recall(found, nearest),
        "ms": took,
        "queries_per_second_batched": round(batched, 1),
    }


def _filtered(
    index: Index, queries: Vectors, truth: Truth, where: str, matches: Callable[[Any], Any]
) -> dict[str, Any]:
    allowed = np.flatnonzero(matches(truth.numbers))
    found, took = asked(lambda vector: index.search_vectors(vector[None], K, where=where)[0], queries)
    return {
        "documents": len(allowed),
        "fewest_results": min(map(len, found)),
        "recall@10": recall(found, truth.neighbours(allowed)),
        "ms": took,
    }


def exact(index: Index, queries: Vectors, truth: Truth) -> dict[str, Any]:
    """A scan of all vectors, for comparison; a few queries suffice."""
    few = queries[:20]
    found, took = asked(lambda vector: index.search_vectors(vector[None], K, exact=True)[0], few)
    return {"kind": "exact", "ms": took, "recall@10": recall(found, truth.neighbours()[:20])}


def by_words(index: Index, model: RouterRetriever, texts: list[str], kind: str) -> dict[str, Any]:
    """The full-text index, alone and fused with vectors, without and with filters."""
    before = size_of(index)
    seconds = index.build_text_index().seconds
    row: dict[str, Any] = {"build_seconds": seconds, "disk_mib": size_of(index) - before, "kind": kind}
    queries = [encode_queries(model, [text], None) for text in texts]
    for mode in ("text", "hybrid"):
        row[mode] = _worded(index, queries, mode, None)
        row[mode]["filters"] = {
            name: _worded(index, queries, mode, where) for name, (where, _) in FILTERS.items()
        }
    print(json.dumps(row), flush=True)
    return row


def _worded(index: Index, queries: list[EncodedQueries], mode: Mode, where: str | None) -> dict[str, Any]:
    def search(query: EncodedQueries) -> list[Any]:
        return index.answer_encoded(query, K, mode=mode, where=where)[0].hits

    found, took = asked(search, queries)
    return {**took, "fewest_results": min(map(len, found))}


def changed(index: Index, queries: Vectors, folder: Path) -> dict[str, Any]:
    """A tenth of the documents replaced by others' vectors and a tenth deleted: before and after a refresh."""
    copy = folder / "changed"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(index.uri, copy)
    index = Index.open(copy, index.model)
    table = lance.dataset(f"{copy}/documents.lance").to_table(
        columns=["id", "collection", "number", "vector"]
    )
    rng = np.random.default_rng(0)
    chosen = rng.permutation(table.num_rows)[: table.num_rows // 5]
    new, gone = table.take(chosen[::2]), table.take(chosen[1::2])
    collection = table["collection"][0].as_py()
    vectors = np.roll(np.stack(new["vector"].to_numpy(zero_copy_only=False)), 1, axis=0)
    start = time.perf_counter()
    for at in range(0, new.num_rows, 4096):
        ids, numbers = (new[name].slice(at, 4096).to_pylist() for name in ("id", "number"))
        documents = [Document(k, "changed", "", {"number": n}) for k, n in zip(ids, numbers, strict=True)]
        parts = [part for document in documents for part in parts_of(document, None)]
        index._store.write(parts, vectors[at : at + 4096], collection, {})
    index.delete(gone["id"].to_pylist(), collection=collection)
    row: dict[str, Any] = {
        "replaced": new.num_rows,
        "deleted": gone.num_rows,
        "seconds": round(time.perf_counter() - start, 1),
    }
    del table, new, gone, vectors
    nearest = Truth(index, queries).neighbours()
    for when in ("before", "after"):
        if when == "after":
            refreshed = index.refresh()
            row["refresh_seconds"] = refreshed.seconds
        found, took = asked(lambda vector: index.search_vectors(vector[None], K)[0], queries)
        row[f"{when}_refresh"] = {"recall@10": recall(found, nearest), "ms": took, "disk_mib": size_of(index)}
    index.clean(timedelta(0))
    row["disk_mib_cleaned"] = size_of(index)
    shutil.rmtree(copy)
    print(json.dumps(row), flush=True)
    return row


def main() -> None:
    """Run and write the JSON after every part."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("model", "index", "data", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--kinds", default="auto,ivf_flat,hnsw,ivf_pq")
    parser.add_argument("--changes", action="store_true")
    parser.add_argument("--add", action="store_true")
    given = parser.parse_args()
    quiet_libraries()
    model = RouterRetriever.from_pretrained(given.model)
    index = Index.open(given.index, model)
    texts = mixed_queries(given.data, QUERIES)
    queries = _unit(model.encode_query(texts))
    result: dict[str, Any] = json.loads(given.out.read_text(encoding="utf-8")) if given.add else {"kinds": []}
    result |= {
        "command": "python benchmarks/scale_search.py MODEL INDEX DATA OUT.json [--kinds …] [--changes] [--add]",
        **surroundings(),
        "documents": len(index),
    }

    def save() -> None:
        given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")

    truth = Truth(index, queries)
    result["text_bytes"] = truth.text_bytes
    result["exact"] = exact(index, queries, truth)
    for number, kind in enumerate(given.kinds.split(",")):
        row = measured(index, queries, truth, kind)
        result["kinds"] = [other for other in result["kinds"] if other["kind"] != row["kind"]] + [row]
        save()
        if number == 0:
            result["text"] = by_words(index, model, texts, row["kind"])
            save()
        if number == 0 and given.changes:
            result["changes"] = changed(index, queries, given.out.parent)
            save()


if __name__ == "__main__":
    main()
