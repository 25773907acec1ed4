"""What a search finds by default: vectors and words, routed, with calibrated relevance.

    python benchmarks/hybrid.py MODEL DATA OUT.json

MODEL has experts and a pilot library for the first nine collections, DATA the folders of all; at most 500 test
queries a collection. Nothing is chosen here: weights and calibrations come from the held-out queries of the model's
library.
*hybrid* is the base's vectors with words at the default weight, what one would have without experts; reciprocal rank
fusion (Cormack, Clarke, Büttcher 2009, k = 60) of the routed vectors and the words is a reference.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from core import REAL, surroundings
from numpy.typing import NDArray

from routerretriever import Collection, RouterRetriever
from routerretriever.bench.measures import calibration, hurt_and_helped
from routerretriever.bench.query_set import Blender, Queries, QuerySet
from routerretriever.bench.with_words import reciprocal_rank_fusion
from routerretriever.cli.common import quiet_libraries
from routerretriever.data.splits import Split
from routerretriever.encoder import query_batch
from routerretriever.encoder.document_vectors import DocumentVectors
from routerretriever.evaluation.hybrid_runs import HybridRanker, settings_of, words_of
from routerretriever.evaluation.statistics import paired_p_value
from routerretriever.index.querying import EncodedQueries, encode_queries
from routerretriever.routing.search_plan import SearchPlan
from routerretriever.words.weights import DEFAULT_WEIGHT

LIMIT = 500
Values = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One collection: nDCG@10 of every query by system, and hits with their relevance."""

    values: Mapping[str, Values]
    weights: list[float]
    hits: Values  # (n, 2): probability, relevant or not
    lost: float  # share of queries with a relevant hit that are told "nothing relevant"
    foreign: float  # share of another collection's queries that are told "nothing relevant"


def measured(model: RouterRetriever, data: Path, name: str, foreign: Sequence[str]) -> Measured:
    """Measure the systems on one collection's test queries."""
    collection = Collection.load(data / name, cut_off=True)
    split = collection.split("test").sample(LIMIT)
    documents = model.embed_collection(collection)
    texts = tuple(split.queries.values())
    base = query_batch.EncodedQueries.of(model.encoder, texts, model.query_prompt)
    queries = QuerySet(
        collection=collection,
        split=split,
        documents=documents,
        similarity=model.similarity_fn_name,
        queries=Queries(texts, base.route_embeddings()),
        candidates={},
        blender=Blender.of(model, tuple(model.experts), base),
    )
    routed = encode_queries(model, texts, None)
    vectors = {"base": base.vectors(None), "routed": _vectors(routed)}
    weights, neighbours = settings_of(routed.plans)

    systems = {system: queries.rank(own) for system, own in vectors.items()}
    systems["bm25"] = queries.by_words()
    systems["hybrid"] = queries.with_words(vectors["base"], DEFAULT_WEIGHT)
    systems["routed at the default weight"] = queries.with_words(vectors["routed"], DEFAULT_WEIGHT)
    systems["routed-hybrid without neighbours"] = queries.with_words(vectors["routed"], weights)
    systems["routed-hybrid"] = queries.with_words(vectors["routed"], weights, neighbours)
    rankings = (systems["routed"].ranking, systems["bm25"].ranking)
    systems["rank fusion (routed)"] = queries.measure(reciprocal_rank_fusion(*rankings))

    probabilities, labels, nothing = _relevance(queries.ranker(vectors["routed"]), routed.plans)
    answered = labels.any(axis=1)
    return Measured(
        values={system: outcome.ndcg for system, outcome in systems.items()},
        weights=weights.tolist(),
        hits=np.stack([probabilities.ravel(), labels.ravel()], axis=1),
        lost=float(nothing[answered].mean()),
        foreign=_told_nothing(model, collection, documents, foreign),
    )


def _told_nothing(
    model: RouterRetriever, collection: Collection, documents: DocumentVectors, queries: Sequence[str]
) -> float:
    """Return the share of queries without an answer here that are told "nothing relevant"."""
    split = Split("foreign", {str(n): query for n, query in enumerate(queries)}, {})
    encoded = encode_queries(model, list(queries), None)
    ranker = HybridRanker.of(
        _vectors(encoded),
        words_of(collection, split, documents),
        split,
        documents,
        collection,
        similarity=model.similarity_fn_name,
    )
    return float(_relevance(ranker, encoded.plans)[2].mean())


def _relevance(
    ranker: HybridRanker, plans: Sequence[SearchPlan]
) -> tuple[Values, NDArray[np.bool_], NDArray[np.bool_]]:
    """Return probabilities and judgements of the ten best hits (n, 10), and for whom there is nothing."""
    samples = ranker.samples(*settings_of(plans))
    probabilities = np.zeros(samples.shape[:2])
    nothing = np.zeros(len(samples), bool)
    for row, plan in enumerate(plans):
        assert plan.relevance is not None, "build the library of this model again"
        calibration = plan.relevance.hybrid
        probabilities[row] = calibration.probabilities(samples[row, :, :-1].astype(np.float64))
        nothing[row] = probabilities[row, 0] < calibration.limit
    return probabilities, samples[:, :, -1] > 0, nothing


def _vectors(encoded: EncodedQueries) -> NDArray[np.float32]:
    assert encoded.vectors is not None
    return encoded.vectors


def calibration_error(row: Measured) -> float:
    """Return the expected calibration error of the probabilities of relevance, in ten bins of equal size."""
    found = calibration(row.hits[:, 0], row.hits[:, 1])
    assert found is not None
    return found.error


def summary(rows: Mapping[str, Measured]) -> dict[str, Any]:
    """Means over collections, the worst of them, and who is hurt."""
    systems = next(iter(rows.values())).values
    means = {system: _mean([float(row.values[system].mean()) for row in rows.values()]) for system in systems}
    ours = {name: row.values["routed-hybrid"] for name, row in rows.items()}
    against = {}
    for other in ("base", "hybrid", "routed"):
        differences = [float((ours[name] - row.values[other]).mean()) for name, row in rows.items()]
        hurt = [hurt_and_helped(ours[name], row.values[other])[0] for name, row in rows.items()]
        pooled = paired_p_value(
            np.concatenate(list(ours.values())), np.concatenate([row.values[other] for row in rows.values()])
        )
        against[other] = {
            "mean": _mean(differences),
            "worst": round(min(differences), 4),
            "queries hurt": _mean(hurt),
            "p": round(pooled, 4),
        }
    return {
        "collections": list(rows),
        "nDCG@10": means,
        "routed-hybrid against": against,
        "calibration error": _mean([calibration_error(row) for row in rows.values()]),
        "answers lost (promised 0.05)": _mean([row.lost for row in rows.values()]),
        "most answers lost": round(max(row.lost for row in rows.values()), 4),
        "foreign queries told so": _mean([row.foreign for row in rows.values()]),
    }


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 4)


def _row(row: Measured) -> dict[str, Any]:
    return {
        "queries": len(row.weights),
        "nDCG@10": {system: _mean(values.tolist()) for system, values in row.values.items()},
        "mean weight of the vectors": _mean(row.weights),
        "calibration error": round(calibration_error(row), 4),
        "answers lost": round(row.lost, 4),
        "foreign queries told so": round(row.foreign, 4),
    }


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "data", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--only", nargs="*", help="collections, instead of all")
    args = parser.parse_args()
    quiet_libraries()
    model = RouterRetriever.from_pretrained(args.model)
    names = [name for name in (*REAL.experts, *REAL.unseen) if not args.only or name in args.only]
    rows: dict[str, Measured] = {}
    for place, name in enumerate(names):
        other = Collection.load(args.data / names[place - 1], cut_off=True)
        foreign = list(other.split("test").sample(100).queries.values())
        rows[name] = measured(model, args.data, name, foreign)
        print(name, json.dumps(_row(rows[name])), flush=True)
    only = f" --only {' '.join(names)}" if args.only else ""
    groups = {"with an expert": REAL.experts, "without one": REAL.unseen}
    result = {
        "command": "python benchmarks/hybrid.py MODEL DATA OUT.json" + only,
        **surroundings(),
        "default weight of the vectors": DEFAULT_WEIGHT,
        "summary": {
            group: summary({name: row for name, row in rows.items() if name in members})
            for group, members in groups.items()
            if any(name in members for name in rows)
        },
        "collections": {name: _row(row) for name, row in rows.items()},
    }
    args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result["summary"], indent=2))


if __name__ == "__main__":
    main()
