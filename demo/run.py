"""The main job from beginning to end on the project's own collections; the last line is the report's path."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

from make_collections import UNSEEN, write_all
from rich.console import Console

from routerretriever import Collection, Index, RouterRetriever, TrainingConfig, evaluate, train_expert
from routerretriever.cli.common import quiet_libraries
from routerretriever.evaluation.report import evaluation_table, write_report
from routerretriever.progress import Bars

QUESTIONS = (
    "G2P1 LBP, COPD, d/c am",
    "TWR PPR DUE BIRD HZD UFN",
    "quantum meruit re: decedent, ex parte, subpoena d.t.",
    "kestrel wobbling after GC tune, roll back?",
    "a white film appears on my roses near the beach, should I spray them?",
)


def main(output: Path) -> Path:
    """Train, build, index, search and evaluate below ``output``."""
    console, bars, started = Console(), Bars(), time.perf_counter()
    folders = write_all(output / "collections")
    collections = [Collection.load(folder) for folder in folders.values()]
    seen = [collection for collection in collections if collection.name not in UNSEEN]

    console.rule("1. Train an expert for every domain with training queries")
    model = RouterRetriever.create("all-MiniLM-L6-v2", device="cpu")
    for collection in seen:
        report = train_expert(model, collection, config=TrainingConfig(epochs=5), progress=bars)
        info = report.info
        console.print(
            f"{report.expert:6} held-out nDCG@10 {100 * info.base_ndcg:.1f} → {100 * info.expert_ndcg:.1f} "
            f"in {report.seconds:.0f} s",
            highlight=False,
        )

    console.rule("2. Measure the experts and build the pilot library")
    library = model.build_library(seen, progress=bars)
    console.print(f"{len(library)} pilots from {', '.join(library.collections())}", highlight=False)
    model.save_pretrained(output / "model")

    console.rule("3. Put all documents into one index")
    index = Index.create(output / "index", model, model_path=output / "model")
    for collection in collections:
        index.upsert(collection.documents, collection=collection.name, progress=bars)
    console.print(f"{len(index)} documents", highlight=False)

    console.rule("4. Search; nobody says which domain a query comes from")
    for question, route in zip(QUESTIONS, model.route(QUESTIONS), strict=True):
        hit = index.search(question, k=1)[0]
        console.print(f"[bold]{question}[/] → [green]{route.expert}[/]", highlight=False)
        console.print(f"   {route.reason}", highlight=False)
        console.print(f"   {hit.score:.2f} {hit.collection}: {hit.text}", highlight=False, soft_wrap=True)

    console.rule("5. Compare on test queries")
    result = evaluate(model, collections, progress=bars)
    console.print(evaluation_table(result))
    page = write_report(result, output / "report", title="RouterRetriever: demo")
    console.print(f"Done in {time.perf_counter() - started:.0f} s.", highlight=False)
    return page


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    quiet_libraries()
    print(main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo-output")))
