"""What routing gains from logged clicks, on test queries that are not in the log.

    python benchmarks/feedback.py MODEL INDEX DATA OUT.json [--own NAME --without NAME] [--logged N…]

MODEL has a pilot library; INDEX holds the collections of its experts, DATA has them in BEIR's layout. Two cases:
the pilots of ``--own`` are taken out of the library, so that its expert is there and unknown; for ``--without`` the
expert is taken out as well, so that none fits. Queries of the train and dev splits are searched as a user would
search, and simulated users click by the position-based model: a document at rank r is looked at with probability 1 / r,
a looked-at one is clicked if relevant, and otherwise with probability ``NOISE``. The expert of ``--own`` was trained on
its train split, so only its held-out queries are logged there. The table is nDCG@10 over the whole index, for test
queries of every collection of the library: what feedback on one must not cost the others.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from core import surroundings

from routerretriever import Collection, Index, RouterRetriever
from routerretriever.data.splits import Split
from routerretriever.evaluation.runs import measure_run
from routerretriever.feedback import FeedbackConfig, apply_feedback, undo_feedback

NOISE, SHOWN, SEED = 0.1, 10, 0


def searched(index: Index, queries: list[str], expert: str | None = None) -> list[list[tuple[str, str]]]:
    """Collection and id of the ten best of every query."""
    found = index.search_many(queries, SHOWN, expert=expert)
    return [[(hit.collection, hit.id) for hit in hits] for hits in found]


def write_log(path: Path, index: Index, name: str, split: Split, eta: float) -> int:
    """Search, let users click, and write what they did; answers how many clicks there were."""
    rng, clicks = np.random.default_rng(SEED), 0
    with path.open("w", encoding="utf-8") as file:
        shown = searched(index, list(split.queries.values()))
        for (query_id, text), documents in zip(split.queries.items(), shown, strict=True):
            grades = split.qrels[query_id]
            keys = [{"id": document, "collection": collection} for collection, document in documents]
            wanted = [
                collection == name and grades.get(document, 0) > 0 for collection, document in documents
            ]
            looked = rng.random(len(keys)) < 1.0 / np.arange(1, len(keys) + 1) ** eta
            clicked = looked & (np.array(wanted) | (rng.random(len(keys)) < NOISE))
            clicks += int(clicked.sum())
            row = {
                "query": text,
                "shown": keys,
                "clicked": [key for key, hit in zip(keys, clicked, strict=True) if hit],
            }
            file.write(json.dumps(row) + "\n")
    return clicks


def ndcg(index: Index, tests: dict[str, Split], expert: str | None = None) -> dict[str, float]:
    """Mean nDCG@10 of every collection's test queries over the whole index."""
    result = {}
    for name, split in tests.items():
        shown = searched(index, list(split.queries.values()), expert)
        run = {
            query_id: {
                document: float(-rank)
                for rank, (collection, document) in enumerate(keys)
                if collection == name
            }
            for query_id, keys in zip(split.queries, shown, strict=True)
        }
        # Documents of other collections keep their ranks: they count as not relevant.
        for query_id, keys in zip(split.queries, shown, strict=True):
            run[query_id] |= {f"{c}/{d}": float(-rank) for rank, (c, d) in enumerate(keys) if c != name}
        result[name] = float(measure_run(run, split, ("nDCG@10",))["nDCG@10"].mean())
    return result


def case(
    given: argparse.Namespace, name: str, without_expert: bool, tests: dict[str, Split]
) -> dict[str, Any]:
    """One domain that the library does not know: before and after so many logged queries."""
    model = RouterRetriever.from_pretrained(given.model, device="cpu")
    index = Index.open(given.index, model)
    library = model.state.required_policy().library
    model.set_library(library.without_collection(name).fitted())
    if without_expert:
        model.remove_expert(name)
    collection = Collection.load(given.data / name)
    train, held_out = collection.train_and_held_out()
    logged = held_out
    if without_expert:  # nobody was trained on any of them
        queries, qrels = {**held_out.queries, **train.queries}, {**held_out.qrels, **train.qrels}
        logged = Split("log", queries, qrels)
    row: dict[str, Any] = {"domain": name, "expert": not without_expert, "base": ndcg(index, tests, "base")}
    row["before"] = ndcg(index, tests)
    if not without_expert:
        row["pinned"] = ndcg(index, {name: tests[name]}, name)
    row["after"] = []
    for size in given.logged:
        part = logged.sample(size, SEED)
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder, "log.jsonl")
            clicks = write_log(log, index, name, part, 1.0)
            for weight in given.weights:
                report = apply_feedback(model, log, index, replace(FeedbackConfig(), weight=weight))
                groups = [asdict(group) for group in report.groups]
                for group in groups:
                    del group["examples"]
                after = ndcg(index, tests) if report.batch else row["before"]
                told: dict[str, float] = {
                    "queries": len(part),
                    "clicks": clicks,
                    "weight": weight,
                    "pilots": report.pilots,
                }
                row["after"].append(
                    {
                        **told,
                        "out_of_domain_share": report.out_of_domain_share,
                        "ndcg": after,
                        "groups": groups,
                    }
                )
                print(name, told, {key: round(value, 4) for key, value in after.items()}, flush=True)
                if report.batch:
                    undo_feedback(model)
    return row


def main() -> None:
    """Measure both cases and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("index", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--own", default="mitre_attack", help="has an expert that the library does not know")
    parser.add_argument("--without", default="bankfaq", help="its expert is taken out")
    parser.add_argument("--logged", type=int, nargs="+", default=[100, 400, 800])
    parser.add_argument("--weights", type=float, nargs="+", default=[0.5], help="of a logged query")
    parser.add_argument("--limit", type=int, default=150, help="test queries a collection")
    parser.add_argument("--split", default="test", help="dev to choose defaults, test to report")
    given = parser.parse_args()
    library = RouterRetriever.from_pretrained(given.model, device="cpu").library
    names = library.collections() if library is not None else ()
    tests = {
        name: Collection.load(given.data / name).split(given.split).sample(given.limit, SEED)
        for name in names
    }
    content = {
        "command": "python benchmarks/feedback.py MODEL INDEX DATA OUT.json",
        **surroundings(),
        "settings": {
            "noise": NOISE,
            "shown": SHOWN,
            "seed": SEED,
            "limit": given.limit,
            "split": given.split,
        },
        "defaults": asdict(FeedbackConfig()),
        "cases": [case(given, given.own, False, tests), case(given, given.without, True, tests)],
    }
    temporary = given.out.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    temporary.replace(given.out)


if __name__ == "__main__":
    main()
