"""What experts gain whose weights are averaged over steps or over seeds, or that start from the base's directions.

    python benchmarks/weight_averages.py DATA OUT.json --only NAME … [--seeds 0,1] [--queries N]
        [--spans 0.5 1] --ways lora map svd seeds

`average E` is the exponential moving average of an expert's factors over about E epochs; it is held against the
held-out queries in place of the factors themselves, in the same training. With LoRA and maps there are also a map
behind LoRA factors, and what `auto` chooses among the three. `svd` starts LoRA's A from the top right
singular vectors of each layer's weight, as long as the rows of today's start. `seeds` is the mean delta of the
experts of all seeds: for two of them it has rank 16, and nothing is cut off.

Gains are nDCG@10 over the base: on held-out queries that chose nothing, by which settings are compared, and on
at most 500 test queries. A training that beats the base on no held-out queries counts 0.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from core import surroundings
from honest_gains import test_gains

from routerretriever import Collection, RouterRetriever, TrainingConfig
from routerretriever.cli.common import quiet_libraries
from routerretriever.encoder.document_vectors import DocumentVectors
from routerretriever.encoder.query_batch import HIDDEN_BUDGET
from routerretriever.experts.checkpoint import Choice
from routerretriever.experts.held_out import HeldOutPlan, HeldOutScores
from routerretriever.experts.kinds import KindTraining, TrainedKind, best_kind, initial_map, on_device
from routerretriever.experts.trainer import Chosen, Trainer
from routerretriever.experts.training_config import TrainedKinds
from routerretriever.experts.training_data import TrainingData
from routerretriever.experts.training_report import trained_expert_info
from routerretriever.experts.weight_average import first_average, move_average
from routerretriever.lora.adapter import Adapter
from routerretriever.lora.arithmetic import combine_adapters
from routerretriever.lora.layers import initial_adapter
from routerretriever.progress import Silent

PLAIN = "plain"
LAST = 1.0
"""Epochs of the average with which maps behind LoRA factors are trained as well."""
CHOSEN = f"average {LAST:g}"


class AveragedTrainer(Trainer):
    """One training, from which every average chooses as if there were no other."""

    def __init__(self, spans: Sequence[float], **arguments: Any) -> None:
        super().__init__(**arguments)
        self.spans = spans
        self.averages = {f"average {span:g}": first_average(self.state.adapter) for span in spans}
        self.choices = {name: [Choice() for _ in self.plan.parts] for name in (PLAIN, *self.averages)}
        self.checkpoint.delete()  # it would not know the averages

    def _one_step(self) -> None:
        super()._one_step()
        state = self.state
        for span, average in zip(self.spans, self.averages.values(), strict=True):
            move_average(average, state.adapter, state.step, span * self.steps_per_epoch)

    def _check_held_out(self) -> None:
        state, goes_on = self.state, False
        own_choices = state.choices
        for name, choices in self.choices.items():
            if any(map(self._goes_on, choices)):
                state.choices, state.average = choices, self.averages.get(name)
                super()._check_held_out()
                goes_on |= any(map(self._goes_on, choices))
        state.choices, state.average = own_choices, None
        for choice in own_choices:  # the loop looks at these
            choice.without_improvement = 0 if goes_on else self.config.patience

    def _choose(self) -> list[Chosen]:
        return []

    def choose(self, name: str) -> list[Chosen]:
        """Set the trainer as if it had been trained with one average, and return what that chooses."""
        self.state.choices, self.state.average = self.choices[name], self.averages.get(name)
        self.chosen = super()._choose()
        return self.chosen


class Experiment:
    """One collection that is trained on in several ways, with one seed."""

    def __init__(
        self,
        model: RouterRetriever,
        collection: Collection,
        documents: DocumentVectors,
        config: TrainingConfig,
        spans: Sequence[float],
    ) -> None:
        self.model, self.config, self.spans = model, config, spans
        self.data = TrainingData.prepare(model, collection, documents, config, HIDDEN_BUDGET)
        self.plan = HeldOutPlan.of([collection.division_keys(self.data.held_out)])
        self.adapters: dict[str, Adapter] = {}
        self.rows: dict[str, dict[str, float]] = {}
        self.seconds: dict[str, float] = {}

    def lora(self, start: str = "") -> dict[str, TrainedKind]:
        """Train LoRA factors, and return average → the experts that it ends with."""
        config, layers = self.config, self.model.encoder.eval().lora_layers
        generator = torch.Generator().manual_seed(config.seed)
        adapter = initial_adapter(layers, config.rank, config.alpha, generator)
        if start == "svd":
            _align(adapter, {name: layer.weight.detach() for name, layer in layers.items()})
        return self._trained(start or "lora", adapter, self.data, config)

    def map(self) -> dict[str, TrainedKind]:
        """Train a map, and return average → the experts that it ends with."""
        return self._trained(
            "map", initial_map(self.model.encoder), self.data.finished(None), self.config.for_map()
        )

    def behind(self, average: str, lora: TrainedKind) -> TrainedKind:
        """Train a map behind LoRA factors, averaged as they are."""
        config = replace(self.config, map_averaged_epochs=0.0 if average == PLAIN else LAST)
        return self._training(config).behind(lora.chosen, lora.base)

    def _trained(
        self, label: str, adapter: Adapter, data: TrainingData, config: TrainingConfig
    ) -> dict[str, TrainedKind]:
        began = time.perf_counter()
        trainer = AveragedTrainer(
            self.spans,
            data=[data],
            config=config,
            name=label,
            plan=self.plan,
            adapter=adapter,
            key=f"weight-averages-{self.data.collection.name}-{label}-{config.seed}",
        )
        trainer.run(Silent())
        trainer.checkpoint.delete()
        self.seconds[label] = round(time.perf_counter() - began, 1)
        found = {}
        for name in trainer.choices:
            chosen = trainer.choose(name)
            if label == "map":
                of_map = self._training(self.config)._map_of
                chosen = [of_map(trainer, number) for number in range(len(chosen))]
            found[name] = TrainedKind(base=trainer.base, trainer=trainer, chosen=chosen)
        return found

    def _training(self, config: TrainingConfig) -> KindTraining:
        return KindTraining(
            model=self.model, data=[self.data], config=config, name="", plan=self.plan, progress=Silent()
        )

    def add(self, label: str, base: HeldOutScores, chosen: Sequence[Chosen]) -> None:
        """Measure an expert on held-out queries, and remember it for the test queries."""
        scores = [found.scores for found in chosen]
        info = trained_expert_info([self.data], self.config, self.plan, base, scores, training="")
        selects = self.plan.parts[0].selects
        adapter, selection_gain = chosen[0].adapter, scores[0].mean(selects) - base.mean(selects)
        row = {"gain": info.gain, "selection_gain": selection_gain}
        if selection_gain <= 0:  # it would be refused
            adapter, row = adapter.scaled(0.0), {"gain": 0.0, "selection_gain": 0.0}
        self.adapters[label], self.rows[label] = adapter, row

    def measured(self) -> dict[str, dict[str, float]]:
        """Return setting → gains."""
        tested = test_gains(self.model, self.data.collection, self.adapters)
        for label, (gain, _) in tested.items():
            self.rows[label]["test_gain"] = gain
            print(label, {figure: round(100 * value, 2) for figure, value in self.rows[label].items()})
        print(self.seconds, flush=True)
        return self.rows


def _align(adapter: Adapter, weights: Mapping[str, torch.Tensor]) -> None:
    """Set A to the top right singular vectors of the weights, at the mean length of its rows."""
    with torch.no_grad():
        for name, (a, _) in adapter.factors.items():
            directions = torch.linalg.svd(weights[name].float(), full_matrices=False)[2][: len(a)]
            a.copy_(directions / 3**0.5)  # rows that are uniform in ±1/√n have the length 1/√3


def run(experiment: Experiment, ways: Sequence[str]) -> TrainedKind | None:
    """Train in all ways, and return the plain LoRA expert, if it was asked for."""
    trained: dict[str, dict[str, TrainedKind]] = {}
    for label, train in (
        ("map", experiment.map),
        ("lora", experiment.lora),
        ("svd", lambda: experiment.lora("svd")),
    ):
        if label not in ways:
            continue
        trained[label] = train()
        for name, found in trained[label].items():
            experiment.add(f"{label}, {name}", found.base, found.chosen)
    if "lora" not in trained:
        return None
    lora, maps = trained["lora"], trained.get("map", {})
    for name in (PLAIN, CHOSEN) if maps else ():
        both = experiment.behind(name, lora[name])
        _, auto = best_kind([lora[name], maps[name], both], experiment.plan)
        experiment.add(f"both, {name}", both.base, both.chosen)
        experiment.add(f"auto, {name}", both.base, auto)
    return lora[PLAIN]


def add_mean(experiment: Experiment, seeds: Sequence[TrainedKind]) -> None:
    """Add the mean of the experts of several seeds to an experiment."""
    rank = sum(kind.chosen[0].adapter.rank for kind in seeds)
    chosen = []
    for number, part in enumerate(experiment.plan.parts):
        adapters = []
        for kind in seeds:
            found = kind.chosen[number]
            gained = found.scores.mean(part.selects) > kind.base.mean(part.selects)
            adapters.append(found.adapter.scaled(float(gained)))
        mean = combine_adapters(adapters, [1 / len(adapters)] * len(adapters), rank).adapter
        values = experiment.data.evaluate(on_device(mean, experiment.model.encoder))
        chosen.append(Chosen(mean, 1.0, HeldOutScores((values,))))
    experiment.add("mean of seeds", seeds[0].base, chosen)


def summary(rows: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]) -> dict[str, Any]:
    """Return setting → mean gains of all collections, and the worst difference of one to plain training."""

    def mean(name: str, setting: str, figure: str) -> float:
        found = [seed[setting][figure] for seed in rows[name].values() if setting in seed]
        return float(np.mean(found))

    result: dict[str, Any] = {}
    settings = list(dict.fromkeys(s for seeds in rows.values() for seed in seeds.values() for s in seed))
    for setting in settings:
        plain = f"{setting.partition(',')[0]}, {PLAIN}".replace("mean of seeds", "lora").replace(
            "svd", "lora"
        )
        result[setting] = {
            figure: float(np.mean([mean(name, setting, figure) for name in rows]))
            for figure in ("gain", "test_gain")
        }
        if plain in settings:
            differences = [mean(name, setting, "gain") - mean(name, plain, "gain") for name in rows]
            result[setting]["worst against plain"] = min(differences)
    return result


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="+", required=True, help="collections")
    parser.add_argument("--seeds", default="0,1", help="comma-separated")
    parser.add_argument("--queries", type=int, default=1000, help="of a collection, at most")
    parser.add_argument("--spans", nargs="*", type=float, default=[0.5, LAST], help="epochs; 1 among them")
    parser.add_argument("--ways", nargs="+", choices=["lora", "map", "svd", "seeds"], required=True)
    given = parser.parse_args()
    quiet_libraries()
    model = RouterRetriever.create()
    rows: dict[str, dict[str, dict[str, dict[str, float]]]] = {name: {} for name in given.only}
    plain: dict[str, list[TrainedKind]] = {name: [] for name in given.only}
    for seed, name in product(given.seeds.split(","), given.only):
        collection = Collection.load(given.data / name, cut_off=True)
        documents = model.embed_collection(collection)
        # Without an average of its own, so that each of those tried here is the only one; anchors came later.
        config = TrainingConfig(
            kind=TrainedKinds.LORA,
            max_queries=given.queries,
            seed=int(seed),
            map_averaged_epochs=0.0,
            anchor=0.0,
        )
        experiment = Experiment(model, collection, documents, config, given.spans)
        lora = run(experiment, given.ways)
        if lora is not None:
            plain[name].append(lora)
        if "seeds" in given.ways and len(plain[name]) == len(given.seeds.split(",")):
            add_mean(experiment, plain[name])
        print(name, seed)
        rows[name][seed] = experiment.measured()
        options = f"--only {' '.join(given.only)} --seeds {given.seeds} --queries {given.queries}"
        options += f" --spans {' '.join(f'{span:g}' for span in given.spans)}"
        options += f" --ways {' '.join(given.ways)}"
        document = {
            "command": f"python benchmarks/weight_averages.py DATA OUT.json {options}",
            **surroundings(),
            "mean": summary({name: seeds for name, seeds in rows.items() if seeds}),
            "collections": rows,
        }
        given.out.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(document["mean"], indent=2))


if __name__ == "__main__":
    main()
