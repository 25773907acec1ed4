"""What passages gain over cutting off, by the index itself: nDCG@10, size and time.

    python benchmarks/passages.py --out benchmarks/passages.json cranfield scifact

Every collection is indexed twice, by the base alone: with documents cut off after what it reads, as in indexes of
format 2, and as passages. *joined* are long texts: documents of a collection put together in fives, where a long
text is relevant if one of its documents is. A sample keeps the judged documents of some queries and others at
random. Search is by vectors alone (``vector``) and with words (``hybrid``).
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import ir_measures

from routerretriever import Collection, Document, Index, RouterRetriever
from routerretriever.cli.common import quiet_libraries
from routerretriever.index.search import Mode
from routerretriever.passages.passage import Passage

REAL = Path(__file__).resolve().parents[2] / "shared" / "data"
TOGETHER = 5
MODES: tuple[Mode, ...] = ("vector", "hybrid")

Grades = dict[str, dict[str, int]]


class CuttingOff(RouterRetriever):
    """Keeps every document as one passage, so that the base cuts off what it does not read."""

    def cut(self, document: Document) -> list[Passage]:
        """Return the document as its only passage."""
        return [Passage.whole(document)]


def sampled(
    collection: Collection, queries: int, others: int
) -> tuple[list[Document], dict[str, str], Grades]:
    """Return some documents, some queries and their judgements."""
    split = collection.split("test").sample(queries, 0)
    grades = {query: dict(split.qrels[query]) for query in split.queries}
    judged = {document for found in grades.values() for document in found}
    rest = [document for document in collection.documents if document.id not in judged]
    random.Random(0).shuffle(rest)
    kept = [document for document in collection.documents if document.id in judged] + rest[:others]
    return kept, dict(split.queries), grades


def joined(documents: list[Document], grades: Grades) -> tuple[list[Document], Grades]:
    """Return documents put together in fives, and the judgements of these."""
    mixed = list(documents)
    random.Random(1).shuffle(mixed)
    long: list[Document] = []
    group_of: dict[str, str] = {}
    for start in range(0, len(mixed), TOGETHER):
        group = mixed[start : start + TOGETHER]
        name = f"group{start // TOGETHER}"
        long.append(Document(name, "\n\n".join(document.content for document in group)))
        group_of |= {document.id: name for document in group}
    moved: Grades = {}
    for query, found in grades.items():
        moved[query] = {}
        for document, grade in found.items():
            group_name = group_of.get(document)
            if group_name is not None:
                moved[query][group_name] = max(grade, moved[query].get(group_name, 0))
    return long, moved


def measured(
    model: RouterRetriever, documents: list[Document], queries: dict[str, str], grades: Grades
) -> dict[str, Any]:
    """Index the documents and search for all queries."""
    with tempfile.TemporaryDirectory() as folder:
        index = Index.create(Path(folder) / "index", model)
        start = time.perf_counter()
        index.upsert(documents)
        info = index.describe()
        result: dict[str, Any] = {
            "documents": info.documents,
            "passages": info.passages,
            "seconds": round(time.perf_counter() - start, 1),
            "mib": round((info.bytes or 0) / 2**20, 2),
        }
        for mode in MODES:
            start = time.perf_counter()
            found = index.search_many(list(queries.values()), k=10, expert="base", mode=mode)
            run = {}
            for query, hits in zip(queries, found, strict=True):
                run[query] = {hit.id: hit.score for hit in hits}
            mean = ir_measures.calc_aggregate([ir_measures.nDCG @ 10], grades, run)
            result[mode] = round(100 * mean[ir_measures.nDCG @ 10], 2)
            result[f"{mode}_ms"] = round(1000 * (time.perf_counter() - start) / len(queries), 1)
    return result


def main() -> None:
    """Measure the collections, as they are and joined."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("collections", nargs="+")
    parser.add_argument("--data", type=Path, default=REAL)
    parser.add_argument("--queries", type=int, default=150)
    parser.add_argument("--others", type=int, default=500, help="documents beside the judged ones")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    quiet_libraries()
    whole, cutting = RouterRetriever.create(), CuttingOff.create()
    results: dict[str, Any] = {}
    for name in given.collections:
        collection = Collection.load(given.data / name)
        documents, queries, grades = sampled(collection, given.queries, given.others)
        kinds = {"": (documents, grades), " joined": joined(documents, grades)}
        for kind, (texts, judged) in kinds.items():
            found = {
                "cut_off": measured(cutting, texts, queries, judged),
                "passages": measured(whole, texts, queries, judged),
            }
            results[name + kind] = found
            print(json.dumps({name + kind: found}), flush=True)
            if given.out:
                given.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
