"""What a bridge between two bases loses: queries of one on an index of the other, by the index itself.

    python benchmarks/bridge.py BASE DATA OUT.json COLLECTION…

Both ways between all-MiniLM-L6-v2 and BASE, without experts, on test queries of collections of DATA. An index is made
with the documents of one base, and searched with queries of the other across the bridge of ``index migrate``, which is
fitted on samples of several sizes. Beside it stand the base that made the index, with its own queries, and the new base
on an index of its own. Large collections are cut: judged documents of the queries first. Searches are exact, by vectors
alone. Documents are encoded in bfloat16 where the processor has instructions for it; ROUTERRETRIEVER_CACHE keeps them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
from core import surroundings
from ir_measures import nDCG

from routerretriever import Collection, Document, Index, RouterRetriever
from routerretriever.cli.common import quiet_libraries
from routerretriever.index.migration.record import FOLDER
from routerretriever.index.migration.settings import MigrationSettings
from routerretriever.kernels.vectors import Vectors

FIRST = "all-MiniLM-L6-v2"
QUERIES, DOCUMENTS, SEED = 300, 3000, 0
SAMPLES = (250, 500, 1000, DOCUMENTS)
K = 10

Grades = dict[str, dict[str, int]]


class _Set:
    """Documents and queries of one collection, and the queries' vectors by base."""

    def __init__(self, collection: Collection, models: dict[str, RouterRetriever]) -> None:
        split = collection.split("test").sample(QUERIES, SEED)
        self.name = collection.name
        self.queries = dict(split.queries)
        self.grades: Grades = {query: dict(split.qrels[query]) for query in split.queries}
        self.documents = _cut(collection, self.grades)
        self.vectors: dict[str, Vectors] = {}
        for base, model in models.items():
            self.vectors[base] = model.encode_query(list(self.queries.values()), expert="base")

    def measure(self, index: Index, base: str) -> dict[str, float]:
        """Search with the queries of a base."""
        run: dict[str, dict[str, float]] = {}
        found = index.search_vectors(self.vectors[base], K, exact=True)
        for query, hits in zip(self.queries, found, strict=True):
            run[query] = {hit.id: hit.score for hit in hits}
        return {
            "recall@10": round(_recall(self.grades, run), 4),
            "nDCG@10": round(ir_measures.calc_aggregate([nDCG @ K], self.grades, run)[nDCG @ K], 4),
        }


def _cut(collection: Collection, grades: Grades) -> list[Document]:
    judged = {document for found in grades.values() for document in found}
    kept = [document for document in collection.documents if document.id in judged]
    others = [document for document in collection.documents if document.id not in judged]
    return kept + others[: max(0, DOCUMENTS - len(kept))]


def _recall(grades: Grades, run: dict[str, dict[str, float]]) -> float:
    """Return the mean share of the relevant documents that are among the ten best, of ten at most."""
    shares = []
    for query, judged in grades.items():
        relevant = {document for document, grade in judged.items() if grade > 0}
        shares.append(len(relevant & run[query].keys()) / min(len(relevant), K))
    return float(np.mean(shares))


def _across(
    data: _Set, old: str, new: str, models: dict[str, RouterRetriever], folder: Path
) -> dict[str, Any]:
    """Return what queries of a new base find on the index of an old one, and what each finds on its own."""
    index = _index(data, models[old], folder / "old")
    own = _index(data, models[new], folder / "new")
    outcome: dict[str, Any] = {
        "old base on its index": data.measure(index, old),
        "new base on its index": data.measure(own, new),
        "bridge": {},
    }
    best = outcome["new base on its index"]["recall@10"]
    for sample in SAMPLES:
        fitted = min(sample, len(data.documents))
        shutil.rmtree(folder / "old" / FOLDER, ignore_errors=True)
        settings = MigrationSettings(sample=sample, only_bridge=True, precision="auto")
        done = Index.open(folder / "old").migrate(models[new], settings=settings)
        figures = data.measure(Index.open(folder / "old", models[new]), new)
        outcome["bridge"][str(fitted)] = {
            **figures,
            "share of the new base's recall@10": round(figures["recall@10"] / best, 4),
            "method": done.method,
            "held-out documents": {name: asdict(found) for name, found in done.figures.items()},
        }
        if fitted < sample or fitted == len(data.documents):
            break
    return outcome


def _index(data: _Set, model: RouterRetriever, folder: Path) -> Index:
    index = Index.create(folder, model)
    index.upsert(data.documents, collection=data.name, precision="auto")
    return index


def compare(base: str, data: Path, names: Sequence[str]) -> dict[str, Any]:
    """Return collection → direction → figures."""
    models = {FIRST: RouterRetriever.create(FIRST), Path(base).name: RouterRetriever.create(base)}
    other = Path(base).name
    results: dict[str, Any] = {}
    for name in names:
        prepared = _Set(Collection.load(data / name), models)
        results[name] = {"documents": len(prepared.documents), "queries": len(prepared.queries)}
        for old, new in ((FIRST, other), (other, FIRST)):
            with tempfile.TemporaryDirectory() as scratch:
                found = _across(prepared, old, new, models, Path(scratch))
            results[name][f"from {old} to {new}"] = found
            print(name, old, new, json.dumps(found), flush=True)
    return results


def main() -> None:
    """Compare, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", help="folder or hub id of the other base")
    parser.add_argument("data", type=Path, help="folder of the collections")
    parser.add_argument("out", type=Path)
    parser.add_argument("collections", nargs="+")
    given = parser.parse_args()
    quiet_libraries()
    command = f"python benchmarks/bridge.py {Path(given.base).name} DATA OUT {' '.join(given.collections)}"
    results = {"command": command, **surroundings()}
    results["collections"] = compare(given.base, given.data, given.collections)
    given.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
