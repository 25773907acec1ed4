"""Words beside vectors: nDCG@10 of both and of their fusion, with and without routing.

    python benchmarks/scale_hybrid.py MODEL DATA OUT.json

MODEL has experts for the collections, DATA their folders; at most 500 queries a collection. The side of the words is
the text index, the side of the vectors an exact product, and the fusion is the library's function over the hundred
best of each; that ``Index.search(mode="hybrid")`` gives the same ten is checked on some queries. The weights of the
fusion, one for queries that an expert encoded and one for the base's, are chosen on held-out queries, all collections
together; test queries are only measured, also those of collections without an expert. Reciprocal rank fusion (Cormack,
Clarke, Büttcher 2009, k = 60) stands beside it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from core import surroundings
from numpy.typing import NDArray

from routerretriever import Collection, Index, RouterRetriever
from routerretriever.cli.common import quiet_libraries
from routerretriever.data.splits import Split
from routerretriever.evaluation.runs import GAIN_MEASURE, Run, measure_run
from routerretriever.evaluation.statistics import paired_p_value
from routerretriever.index.fusion import BASE_WEIGHT, DEPTH, EXPERT_WEIGHT, fuse, vector_weight
from routerretriever.index.querying import encode_queries

NAMES = ("bankfaq", "mitre_attack", "nl2bash", "scifact")
UNSEEN = ("cranfield", "cacm", "fiqa_mini")
WEIGHTS = tuple(round(0.05 * step, 2) for step in range(21))
IN_USE = {"base": BASE_WEIGHT, "routed": EXPERT_WEIGHT}
RRF_K = 60
LIMIT = 500
CHECKED = 20


@dataclass(frozen=True)
class Sides:
    """One split: by system similarities (n, m) and what encoded each query; the ids of the documents; BM25 scores."""

    split: Split
    similarities: Mapping[str, NDArray[np.float32]]
    experts: Mapping[str, Sequence[str]]
    ids: list[str]
    words: Run

    def vector(self, system: str) -> Run:
        """The hundred nearest of every query."""
        run: Run = {}
        for query, row in zip(self.split.queries, self.similarities[system], strict=True):
            best = np.argpartition(-row, DEPTH)[:DEPTH]
            run[query] = {self.ids[k]: float(row[k]) for k in best[np.argsort(-row[best], kind="stable")]}
        return run

    def hybrid(self, system: str, weight: float | None = None) -> Run:
        """As the index fuses: every candidate has its true similarity."""
        column = {document: k for k, document in enumerate(self.ids)}
        near, run = self.vector(system), {}
        for query, row, expert in zip(
            self.split.queries, self.similarities[system], self.experts[system], strict=True
        ):
            far = {key: float(row[column[key]]) for key in self.words[query] if key not in near[query]}
            share = vector_weight(expert) if weight is None else weight
            run[query] = dict(fuse({**near[query], **far}, self.words[query], weight=share, floor=-1.0))
        return run

    def reciprocal(self, system: str) -> Run:
        """Reciprocal rank fusion."""
        run: Run = {query: {} for query in self.split.queries}
        for side in (self.vector(system), self.words):
            for query, ranked in side.items():
                for rank, document in enumerate(ranked, start=1):
                    run[query][document] = run[query].get(document, 0.0) + 1.0 / (RRF_K + rank)
        return run

    def ndcg(self, run: Run) -> NDArray[np.float64]:
        """nDCG@10 of every query."""
        return measure_run(run, self.split, (GAIN_MEASURE,))[GAIN_MEASURE]


def search(index: Index, split: Split, collection: Collection) -> Sides:
    """Both sides for every query."""
    queries, model = list(split.queries.values()), index.model
    encoded = {"base": encode_queries(model, queries, "base"), "routed": encode_queries(model, queries, None)}
    documents = _unit(model.embed_texts(collection.contents))
    similarities = {name: _unit(vectors) @ documents.T for name, (vectors, _) in encoded.items()}
    experts = {name: by for name, (_, by) in encoded.items()}
    found = index.search_many(queries, DEPTH, mode="text")
    words = {
        query: {hit.id: hit.score for hit in hits} for query, hits in zip(split.queries, found, strict=True)
    }
    sides = Sides(split, similarities, experts, collection.document_ids, words)
    shown = index.search_many(queries[:CHECKED], 10, mode="hybrid")
    for hits, ranked in zip(shown, sides.hybrid("routed").values(), strict=False):
        np.testing.assert_allclose([hit.score for hit in hits], list(ranked.values())[:10], atol=1e-4)
    return sides


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def chosen(held_out: Mapping[str, Sides]) -> dict[str, Any]:
    """Mean nDCG@10 over collections for every weight, and which is best, on held-out queries."""
    return {system: _curve(held_out, system, used) for system, used in IN_USE.items()}


def _curve(held_out: Mapping[str, Sides], system: str, used: float) -> dict[str, Any]:
    by_name = {n: {str(w): _mean(s.ndcg(s.hybrid(system, w))) for w in WEIGHTS} for n, s in held_out.items()}
    curve = {str(w): _mean([row[str(w)] for row in by_name.values()]) for w in WEIGHTS}
    return {
        "convex combination, by weight of the vectors": curve,
        "reciprocal rank fusion": _mean([_mean(s.ndcg(s.reciprocal(system))) for s in held_out.values()]),
        "best weight": float(max(curve, key=curve.__getitem__)),
        "weight in use": used,
        "best weight of each collection": {
            n: float(max(row, key=row.__getitem__)) for n, row in by_name.items()
        },
    }


def measured(sides: Sides) -> dict[str, Any]:
    """All systems on test queries."""
    runs = {"text": sides.words}
    for name in sides.similarities:
        runs |= {f"vector ({name})": sides.vector(name), f"hybrid ({name})": sides.hybrid(name)}
    runs["reciprocal rank fusion (routed)"] = sides.reciprocal("routed")
    values = {system: sides.ndcg(run) for system, run in runs.items()}
    differences = {}
    for name in sides.similarities:
        ours, alone = values[f"hybrid ({name})"], values[f"vector ({name})"]
        p_value = round(paired_p_value(ours, alone), 4)
        differences[f"hybrid - vector ({name})"] = {"gain": _mean(ours - alone), "p": p_value}
    return {
        "queries": len(sides.split.queries),
        "nDCG@10": {system: _mean(scores) for system, scores in values.items()},
        **differences,
    }


def _mean(values: NDArray[np.float64] | list[float]) -> float:
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
    for name in NAMES + UNSEEN:
        collection = Collection.load(str(args.data / name))
        with tempfile.TemporaryDirectory() as scratch:
            index = Index.create(Path(scratch) / "index", model)
            index.upsert(collection.documents)
            index.build_text_index()
            if name in NAMES:
                held_out[name] = search(index, collection.train_and_held_out()[1].sample(LIMIT), collection)
            test[name] = search(index, collection.split("test").sample(LIMIT), collection)
    rows = {name: measured(sides) for name, sides in test.items()}
    systems = rows[NAMES[0]]["nDCG@10"]
    result = {
        "command": "python benchmarks/scale_hybrid.py MODEL DATA OUT.json",
        **surroundings(),
        "held_out": chosen(held_out),
        "mean": {
            group: {system: _mean([rows[name]["nDCG@10"][system] for name in names]) for system in systems}
            for group, names in (("with an expert", NAMES), ("without one", UNSEEN))
        },
        "test": rows,
    }
    args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
