"""How much of each expert the merged expert should hold: the mean of all, or weights that are learnt.

    python benchmarks/merge_weights.py DATA OUT.json --models MODEL …

Each MODEL holds LoRA experts of DATA's collections, such as `bench` keeps below its output folder. Every collection is
left out in turn: the merged expert of the others is measured on its held-out queries, with the weights 1/E times a
factor, and with weights that follow the measured gains of each expert on the other collections that are not its own.
What is best there on average is chosen, and measured on the test queries of collections without an expert.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from core import REAL, surroundings
from honest_gains import LIMIT, SEED
from numpy.typing import NDArray

from routerretriever import Collection, RouterRetriever
from routerretriever.cli.common import quiet_libraries
from routerretriever.data.splits import Split
from routerretriever.encoder.document_vectors import DocumentVectors
from routerretriever.encoder.query_batch import EncodedQueries
from routerretriever.evaluation.runs import ndcg_at_10
from routerretriever.lora.adapter import Adapter
from routerretriever.lora.arithmetic import combine_adapters
from routerretriever.lora.layers import TrainingPlan

FACTORS = (0.5, 1.0, 2.0, 3.0)
"""Times 1/E. 0.5 is what an out-of-domain query gets, 1 is the merged expert."""

TEMPERATURES = (0.01,)
"""Of the softmax over measured gains, in nDCG@10."""


class Asked:
    """Queries of one collection, encoded up to the branch layer."""

    def __init__(self, model: RouterRetriever, collection: Collection, split: Split) -> None:
        self.collection, self.split = collection, split.sample(LIMIT, SEED)
        texts = list(self.split.queries.values())
        self.encoded = EncodedQueries.of(model.encoder, texts, model.query_prompt)
        self.documents: DocumentVectors = model.embed_collection(collection)
        self.similarity = model.similarity_fn_name
        self.base = self._mean(None)

    @classmethod
    def held_out(cls, model: RouterRetriever, collection: Collection) -> Self:
        """Return queries that training did not learn from."""
        return cls(model, collection, collection.train_and_held_out()[1])

    def gain(self, adapter: Adapter) -> float:
        """Return mean nDCG@10 over the base."""
        return self._mean(TrainingPlan(adapter)) - self.base

    def _mean(self, plan: TrainingPlan | None) -> float:
        vectors = self.encoded.vectors(plan)
        values = ndcg_at_10(vectors, self.split, self.documents, self.collection, self.similarity)
        return float(values.mean())


def merged(adapters: Sequence[Adapter], weights: NDArray[np.float64]) -> Adapter:
    """Return the weighted sum, exactly."""
    ranks = [max(len(a) for a, _ in adapter.factors.values()) for adapter in adapters]
    return combine_adapters(adapters, weights.tolist(), sum(ranks)).adapter


def weightings(elsewhere: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Return name → the weight of each expert.

    Args:
        elsewhere: each expert's mean gain on collections that are not its own (E,).
    """
    count = len(elsewhere)
    made = {f"{factor:g}/E": np.full(count, factor / count) for factor in FACTORS}
    for temperature in TEMPERATURES:
        shares = np.exp((elsewhere - elsewhere.max()) / temperature)
        for factor in (0.5, 1.0):
            made[f"{factor:g}, by gains at {temperature:g}"] = factor * shares / shares.sum()
    return made


def measured(model: RouterRetriever, data: Path, unseen: Mapping[str, Collection]) -> dict[str, Any]:
    """Return gains by weighting, of collections that are left out and of those without an expert."""
    names = list(model.experts)
    adapters = [model.state.experts[name] for name in names]
    known = {name: Asked.held_out(model, Collection.load(data / name, cut_off=True)) for name in names}
    table = np.array([[known[name].gain(adapter) for adapter in adapters] for name in names])
    print("gains", np.round(100 * table, 1).tolist(), flush=True)

    left_out: dict[str, dict[str, float]] = {}
    for row, name in enumerate(names):
        others = [column for column in range(len(names)) if column != row]
        elsewhere = np.array([table[[r for r in others if r != column], column].mean() for column in others])
        for way, weights in weightings(elsewhere).items():
            adapter = merged([adapters[column] for column in others], weights)
            left_out.setdefault(way, {})[name] = known[name].gain(adapter)
        print(name, {way: round(100 * gains[name], 2) for way, gains in left_out.items()}, flush=True)

    elsewhere = np.array([np.delete(table[:, column], column).mean() for column in range(len(names))])
    asked = {name: Asked(model, collection, collection.split("test")) for name, collection in unseen.items()}
    without: dict[str, dict[str, float]] = {}
    for way, weights in weightings(elsewhere).items():
        adapter = merged(adapters, weights)
        without[way] = {name: queries.gain(adapter) for name, queries in asked.items()}
    return {"experts": names, "left_out": left_out, "without": without}


def means(rows: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, float]:
    """Return way → mean gain × 100 over models and collections."""
    return {way: round(100 * float(np.mean([list(row[way].values()) for row in rows])), 2) for way in rows[0]}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--models", type=Path, nargs="+", required=True)
    args = parser.parse_args()
    quiet_libraries()
    unseen = {name: Collection.load(args.data / name, cut_off=True) for name in REAL.unseen}
    rows = [measured(RouterRetriever.from_pretrained(path), args.data, unseen) for path in args.models]
    summary = {part: means([row[part] for row in rows]) for part in ("left_out", "without")}
    chosen = max(summary["left_out"], key=lambda way: summary["left_out"][way])
    print(json.dumps(summary, indent=1), "chosen:", chosen, flush=True)
    result = {
        "command": "python benchmarks/merge_weights.py DATA benchmarks/merge_weights.json --models MODEL …",
        **surroundings(),
        "limit": LIMIT,
        "summary": summary,
        "chosen": chosen,
        "models": rows,
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
