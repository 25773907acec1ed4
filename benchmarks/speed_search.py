"""Searching 10k, 100k and 1M vectors against faiss, and one query from text to results."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from typing import Any

import faiss
import numpy as np
import torch
from speed_setting import Setting, said
from speed_timing import paired, summary, using_threads
from speed_vectors import QUERIES, clustered

from routerretriever import Index, RouterRetriever
from routerretriever.data.document import Document
from routerretriever.kernels.exact_search import top_k
from routerretriever.kernels.vectors import Vectors

SIZES = (10_000, 100_000, 1_000_000)
K = 10
COMPARED = 20_000_000  # queries times vectors, at most, of an exact search in memory
LINKS, DEPTHS = 32, (16, 32, 64, 128, 256, 512, 1024)


def run(setting: Setting) -> dict[str, Any]:
    """Every size: exact and approximate, single queries, one thread and two."""
    model = RouterRetriever.from_pretrained(setting.model, device=setting.device)
    rows: list[dict[str, Any]] = []
    for size in SIZES:
        rows += _rows(setting, model, size)
    return {"rows": rows}


def _rows(setting: Setting, model: RouterRetriever, size: int) -> list[dict[str, Any]]:
    dimension = model.encoder.dimension
    vectors = np.concatenate(list(clustered(size, dimension, 1)))
    queries = np.concatenate(list(clustered(QUERIES, dimension, 2)))
    truth = top_k(queries, vectors, K).columns
    index, built = filled(setting, model, vectors)
    flat = faiss.IndexFlatIP(dimension)
    flat.add(vectors)
    several = queries[: COMPARED // size]
    rows = []
    for threads in (1, 2):
        faiss.omp_set_num_threads(threads)
        floor = vectors.nbytes / setting.machine(threads).bytes_per_second
        with using_threads(threads):
            index_on_disk = {
                "ours": lambda: index.search_vectors(queries[:1], K, exact=True),
                "faiss": lambda: flat.search(queries[:1], K),
            }
            in_memory = {"ours": lambda: top_k(several, vectors, K), "faiss": lambda: flat.search(several, K)}
            for what, systems in (
                ("exact, one query", index_on_disk),
                (f"exact, {len(several)} in memory", in_memory),
            ):
                facts = {"vectors": size, "search": what, "threads": threads}
                rows.append(said(facts | summary(paired(systems), "ours", floor)))
    if index.is_approximate:
        rows += _approximate(index, vectors, queries, truth, built)
    if size == 100_000:
        rows += _end_to_end(setting, model, index)
    shutil.rmtree(index.uri)
    return rows


def filled(setting: Setting, model: RouterRetriever, vectors: Vectors) -> tuple[Index, float]:
    """An index with these vectors and short texts, and how many seconds it took."""
    index = Index.create(setting.scratch / f"index-{len(vectors)}", model)
    blocks = iter(np.split(vectors, range(4096, len(vectors), 4096)))
    documents = (Document(str(number), f"text {number}") for number in range(len(vectors)))
    started = time.perf_counter()
    index.upsert(documents, encode=lambda texts: next(blocks))
    return index, time.perf_counter() - started


def recall(found: Sequence[Sequence[int]], truth: Any) -> float:
    """Share of the true ten nearest that were found."""
    pairs = zip(found, truth.tolist(), strict=True)
    return float(np.mean([len(set(own) & set(true)) / K for own, true in pairs]))


def _approximate(
    index: Index, vectors: Vectors, queries: Vectors, truth: Any, built: float
) -> list[dict[str, Any]]:
    own = recall([[int(hit.id) for hit in hits] for hits in index.search_vectors(queries, K)], truth)
    graph = faiss.IndexHNSWFlat(vectors.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
    faiss.omp_set_num_threads(torch.get_num_threads())
    started = time.perf_counter()
    graph.add(vectors)
    graph_built = time.perf_counter() - started
    for depth in DEPTHS:  # the cheapest that finds as much as we do
        graph.hnsw.efSearch = depth
        theirs = recall(graph.search(queries, K)[1].tolist(), truth)
        if theirs >= own - 0.005:
            break
    rows = []
    for threads in (1, 2):
        faiss.omp_set_num_threads(threads)
        numbers = iter(range(10**9))

        def following(numbers: Iterator[int] = numbers) -> Vectors:
            row = next(numbers) % QUERIES
            return queries[row : row + 1]

        systems = {
            "ours": lambda: index.search_vectors(following(), K),
            "faiss": lambda: graph.search(following(), K),
        }
        with using_threads(threads):
            facts = {"vectors": len(vectors), "search": "approximate", "threads": threads}
            found = {"recall@10": round(own, 3), "HNSW recall@10": round(theirs, 3), "efSearch": depth}
            took = {"built s": round(built, 1), "HNSW built s": round(graph_built, 1)}
            rows.append(said(facts | found | took | summary(paired(systems), "ours")))
    return rows


def _end_to_end(setting: Setting, model: RouterRetriever, index: Index) -> list[dict[str, Any]]:
    """Tokenise, route, encode and search, against the base's own encoding of the same query."""
    base, rows = setting.base(), []
    for threads in (1, 2):
        with using_threads(threads):
            numbers = iter(range(10**9))

            def following(numbers: Iterator[int] = numbers) -> str:
                return setting.queries[next(numbers) % len(setting.queries)]

            systems = {
                "text to results": lambda: index.search(following(), K),
                "routed encoding alone": lambda: model.encode_query([following()]),
                "base encoding alone": lambda: base.encode_query([following()]),
            }
            facts = {"vectors": len(index), "search": "one query end to end", "threads": threads}
            rows.append(said(facts | summary(paired(systems, rounds=25), "text to results")))
    return rows
