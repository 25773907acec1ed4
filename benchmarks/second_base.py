"""What experts add to another base: LoRA and maps, on collections with and without an expert.

    python benchmarks/second_base.py BASE DATA OUT.json --models FOLDER

DATA holds the collections of suites/real.yaml. FOLDER keeps the two models and what was measured, so an interrupted
run continues where it was. A large base is dear on a processor, so documents are encoded in bfloat16 where it has
instructions for it, and an expert learns from at most QUERIES queries. Figures are of test queries.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from core import REAL, surroundings

from routerretriever import Collection, RouterRetriever, TrainingConfig, evaluate, train_expert
from routerretriever.cli.common import quiet_libraries
from routerretriever.evaluation.evaluate import CollectionResult
from routerretriever.experts.training_config import TrainedKinds
from routerretriever.kernels.vectors import Vectors
from routerretriever.progress import Progress, Silent

EXPERTS = ("bankfaq", "mitre_attack", "nl2bash", "finqa10k", "scifact")
UNSEEN = ("fiqa_mini", "med", "cacm")
KINDS = (TrainedKinds.MAP, TrainedKinds.LORA)
QUERIES, EPOCHS, LIMIT, SEED = 1000, 4, 300, 0
SYSTEMS = ("base", "hybrid", "routed", "routed-hybrid")


class _CheapDocuments(RouterRetriever):
    """A model that encodes documents in bfloat16, where the processor can."""

    def embed_texts(
        self, texts: Sequence[str], *, precision: str = "auto", progress: Progress | None = None
    ) -> Vectors:
        return super().embed_texts(texts, precision=precision, progress=progress)


class _Run:
    """One base, its models and figures."""

    def __init__(self, base: str, data: Path, folder: Path) -> None:
        self.base, self.data, self.folder = base, data, folder
        self.figures_file = folder / "figures.json"
        self.figures: dict[str, Any] = {}
        if self.figures_file.exists():
            self.figures = json.loads(self.figures_file.read_text())

    def keep(self, figures: dict[str, Any], *place: str) -> None:
        """Write figures at a place of the tree."""
        print(*place, json.dumps(figures), flush=True)
        tree = self.figures
        for key in place[:-1]:
            tree = tree.setdefault(key, {})
        tree[place[-1]] = figures
        self.figures_file.write_text(json.dumps(self.figures, indent=2))

    def model(self, kind: TrainedKinds) -> RouterRetriever:
        """Return the model with the experts of one kind that are trained already."""
        path = self.folder / str(kind)
        if path.exists():
            return _CheapDocuments.from_pretrained(path)
        return _CheapDocuments.create(self.base)

    def train(self, names: Sequence[str]) -> None:
        """Train what is missing, the cheap kind first."""
        models = {kind: self.model(kind) for kind in KINDS}
        for name in names:
            collection = Collection.load(self.data / name)
            for kind, model in models.items():
                if name in model.experts:
                    continue
                config = TrainingConfig(kind=kind, max_queries=QUERIES, seed=SEED)
                if kind == TrainedKinds.LORA:
                    config = replace(config, epochs=EPOCHS, anchor=0.0)
                report = train_expert(model, collection, config=config, force=True)
                model.save_pretrained(self.folder / str(kind))
                figures = {
                    "queries": report.info.queries,
                    "held_out_gain": report.info.gain,
                    "p": report.p_value,
                    "seconds": round(report.seconds, 1),
                }
                self.keep(figures, "training", str(kind), name)

    def evaluate(self, experts: Sequence[str], unseen: Sequence[str]) -> None:
        """Route among the experts of each kind, on test queries."""
        for kind in KINDS:
            done = self.figures.get("test", {}).get(str(kind), {})
            model = self.model(kind)
            if not model.library or set(model.library.experts) != set(model.experts):
                model.build_library(
                    [Collection.load(self.data / name) for name in experts], progress=Silent()
                )
                model.save_pretrained(self.folder / str(kind))
            for name in [*experts, *unseen]:
                if name in done:
                    continue
                found = evaluate(model, [Collection.load(self.data / name)], limit=LIMIT, seed=SEED)
                self.keep(_figures(found.collections[0]), "test", str(kind), name)

    def means(self, experts: Sequence[str], unseen: Sequence[str]) -> dict[str, Any]:
        """Return kind → seen and unseen → system → mean nDCG@10."""
        means: dict[str, Any] = {}
        for kind, found in self.figures["test"].items():
            means[kind] = {}
            for group, names in (("seen", experts), ("unseen", unseen)):
                systems = [*SYSTEMS, "own"] if group == "seen" else SYSTEMS
                means[kind][group] = {
                    system: float(np.mean([found[name][system] for name in names])) for system in systems
                }
        return means


def _figures(result: CollectionResult) -> dict[str, Any]:
    figures: dict[str, Any] = {system: result.systems[system].mean() for system in SYSTEMS}
    own = f"expert:{result.name}"
    if own in result.systems:
        figures["own"] = result.systems[own].mean()
    return {**figures, "routes": dict(result.chosen)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base")
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--experts", nargs="+", default=EXPERTS, choices=REAL.experts)
    parser.add_argument("--unseen", nargs="+", default=UNSEEN, choices=REAL.unseen)
    given = parser.parse_args()
    quiet_libraries()
    given.models.mkdir(parents=True, exist_ok=True)
    run = _Run(given.base, given.data, given.models)
    run.train(given.experts)
    run.evaluate(given.experts, given.unseen)
    means = run.means(given.experts, given.unseen)
    options = f"--experts {' '.join(given.experts)} --unseen {' '.join(given.unseen)}"
    base = Path(given.base).name
    document = {
        "command": f"python benchmarks/second_base.py {base} DATA OUT.json --models FOLDER {options}",
        **surroundings(),
        "max_queries": QUERIES,
        "lora_epochs": EPOCHS,
        "seed": SEED,
        "test_queries": LIMIT,
        "mean": means,
        **run.figures,
    }
    given.out.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(means, indent=2))


if __name__ == "__main__":
    main()
