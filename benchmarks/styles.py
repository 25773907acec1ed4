"""What an expert does to other ways of asking, and what two changes of its training do against that.

    python benchmarks/styles.py DATA OUT.json --only NAME … [--shares 0,0.25] [--anchors 0,3,10] [--kind lora]
        [--queries N] [--foreign NAME …]

Queries of another style are made of headings, sentences, phrases and keywords of the documents (`synthesize --with
titles`). A share of them, relative to the true training queries, is added to the training. Or texts of the documents
anchor the expert to the base (`TrainingConfig.anchor`), at each of the weights. The true held-out queries choose the
expert. It is measured at several parts of its adapter weight: on true queries, held-out ones that chose nothing and
test queries; on generated queries of passages that were neither trained on nor anchored, in two halves, of which the
first is there to choose a setting by; and on test queries of the foreign collections. What OUT.json has already is not
measured again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from core import surroundings
from honest_gains import LIMIT, SEED

from routerretriever import Collection, RouterRetriever, TrainingConfig, train_expert
from routerretriever.cli.common import quiet_libraries
from routerretriever.data.splits import Split, is_measured_on
from routerretriever.data.text import stable_hash
from routerretriever.encoder.document_vectors import DocumentVectors
from routerretriever.encoder.query_batch import EncodedQueries
from routerretriever.evaluation.runs import ndcg_at_10
from routerretriever.experts.anchors import ANCHORS, divided
from routerretriever.experts.training_config import TrainedKinds
from routerretriever.lora.layers import TrainingPlan
from routerretriever.synthesis import SynthesisConfig, synthesize

GENERATED = 4000
WEIGHTS = (0.5, 0.75, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Queries that experts are measured on."""

    collection: Collection
    split: Split
    encoded: EncodedQueries
    documents: DocumentVectors

    @classmethod
    def of(cls, model: RouterRetriever, collection: Collection, split: Split) -> Self:
        """Encode at most ``LIMIT`` queries of a split."""
        split = split.sample(LIMIT, SEED)
        encoded = EncodedQueries.of(model.encoder, list(split.queries.values()), model.query_prompt)
        documents = model.embed_collection(collection)
        return cls(collection=collection, split=split, encoded=encoded, documents=documents)

    def mean(self, plan: TrainingPlan | None, similarity: str) -> float:
        """Return mean nDCG@10 under a plan; ``None`` is the base."""
        vectors = self.encoded.vectors(plan)
        return float(ndcg_at_10(vectors, self.split, self.documents, self.collection, similarity).mean())


def generated_of(data: Path, name: str, model: RouterRetriever, count: int = GENERATED) -> Collection:
    """Return a collection with so many generated queries."""
    with tempfile.TemporaryDirectory() as folder:
        config = SynthesisConfig(method="titles", queries=count, seed=SEED)
        synthesize(data / name, Path(folder) / name, model=model, config=config)
        return replace(Collection.load(Path(folder) / name, cut_off=True), name=name)


def on_either_side(generated: Collection, model: RouterRetriever) -> tuple[Split, Split]:
    """Return generated queries of the documents that anchor experts, and those of all others."""
    documents = model.embed_collection(generated)
    rows, _ = divided(documents.texts, ANCHORS, SEED)
    anchored = {documents.documents[documents.owners[row]].id for row in rows}
    train, held_out = generated.train_and_held_out()
    every = Split("train", {**train.queries, **held_out.queries}, {**train.qrels, **held_out.qrels})
    others = every.restrict(
        query_id for query_id in every.queries if anchored.isdisjoint(every.qrels[query_id])
    )
    return every.restrict(every.queries.keys() - others.queries.keys()), others


def with_share(true: Collection, generated: Collection, split: Split, share: float) -> Collection:
    """Return the true collection, with some generated queries among those to train on."""
    train, held_out = true.train_and_held_out()
    added = split.sample(round(share * len(train)), SEED)
    both = Split("train", {**train.queries, **added.queries}, {**train.qrels, **added.qrels})
    return replace(true, splits={"train": both, "dev": held_out}, generated=generated.generated)


def asked_of(
    model: RouterRetriever, true: Collection, generated: Collection, others: Split
) -> dict[str, Asked]:
    """Return the queries of both styles."""
    held_out = true.train_and_held_out()[1]
    keys = zip(held_out.queries, true.division_keys(held_out), strict=True)
    chose_nothing = held_out.restrict(query_id for query_id, key in keys if is_measured_on(key))
    keys = zip(others.queries, generated.division_keys(others), strict=True)
    chosen_by = others.restrict(query_id for query_id, key in keys if int(stable_hash(key), 16) % 2)
    tested = others.restrict(others.queries.keys() - chosen_by.queries.keys())
    return {
        "true, held out": Asked.of(model, true, chose_nothing),
        "true, test": Asked.of(model, true, true.split("test")),
        "generated, held out": Asked.of(model, generated, chosen_by),
        "generated, test": Asked.of(model, generated, tested),
    }


def measured(given: argparse.Namespace, name: str, found: dict[str, Any], save: Callable[[], None]) -> None:
    """Add the gains of one collection's experts to what was found.

    Args:
        given: the command line.
        name: of the collection.
        found: what is known of it, which is added to.
        save: called after every expert.
    """
    model, true = RouterRetriever.create(), Collection.load(given.data / name, cut_off=True)
    generated = generated_of(given.data, name, model)
    anchored, others = on_either_side(generated, model)
    asked = asked_of(model, true, generated, others)
    for other in given.foreign:
        foreign = Collection.load(given.data / other, cut_off=True)
        asked[other] = Asked.of(model, foreign, foreign.split("test"))

    def means(plan: TrainingPlan | None) -> dict[str, float]:
        return {key: queries.mean(plan, model.similarity_fn_name) for key, queries in asked.items()}

    base = means(None)
    found["queries"] = {key: len(queries.split) for key, queries in asked.items()}
    found["base"] = _rounded(base)
    rows = found.setdefault("rows", [])
    settings = [(share, 0.0) for share in given.shares] + [(0.0, anchor) for anchor in given.anchors]
    for share, anchor in dict.fromkeys(settings):
        row = {"kind": given.kind, "queries": given.queries, "share": share, "anchor": anchor}
        if any(row.items() <= known.items() for known in rows):
            continue
        source = with_share(true, generated, anchored, share) if share else true
        config = TrainingConfig(kind=given.kind, anchor=anchor, max_queries=given.queries, seed=SEED)
        report = train_expert(model, source, name="expert", config=config, force=True)
        adapter = model.state.experts["expert"]
        gains = {}
        for weight in WEIGHTS:
            scores = means(TrainingPlan(adapter.scaled(weight)))
            gains[str(weight)] = _rounded({key: score - base[key] for key, score in scores.items()})
        row |= {"adapter weight": report.adapter_weight, "steps": report.steps}
        row |= {"gains by part of the weight": gains}
        rows.append(row)
        print(name, json.dumps(row), flush=True)
        save()


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {key: round(value, 4) for key, value in values.items()}


def _numbers(text: str) -> list[float]:
    return [float(number) for number in text.split(",")]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="+", required=True, help="collections")
    parser.add_argument(
        "--shares", type=_numbers, default=[0.0], help="of generated queries, comma-separated"
    )
    parser.add_argument("--anchors", type=_numbers, default=[0.0], help="weights, comma-separated")
    parser.add_argument("--kind", type=TrainedKinds, choices=list(TrainedKinds), default=TrainedKinds.LORA)
    parser.add_argument("--queries", type=int, help="of a collection that train its expert, at most")
    parser.add_argument(
        "--foreign", nargs="*", default=[], help="collections whose test queries are asked, too"
    )
    given = parser.parse_args()
    quiet_libraries()
    content: dict[str, Any] = {"commands": [], **surroundings(), "collections": {}}
    if given.out.exists():
        content = json.loads(given.out.read_text(encoding="utf-8"))
    options = " ".join(sys.argv[3:])
    content["commands"].append(f"python benchmarks/styles.py DATA OUT.json {options}")

    def save() -> None:
        given.out.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    for name in given.only:
        measured(given, name, content["collections"].setdefault(name, {}), save)


if __name__ == "__main__":
    main()
