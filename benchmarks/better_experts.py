"""What other ways of training an expert gain: false negatives left out, a larger rank, a common start.

    python benchmarks/better_experts.py DATA OUT.json --kind map|lora --only NAME … [--seeds 0,1] [--queries N]

`mask R` leaves out of the loss every document that is not judged relevant and that the frozen base finds at least R
times as similar to the query as its best relevant document: it may well be relevant. `rank 32` has four times the
directions of the default at half the scaling. `common W` starts a map from W times one that the other collections
named here learnt together. `decay D` draws it to the identity by AdamW's weight decay, and `anchor W` by texts made
of the documents (a recovery loss, as Search-Adaptor has, arXiv 2310.08750). Gains are nDCG@10 over the base: on
held-out queries that chose nothing, by which settings are compared, and on at most 500 test queries. A training that
beats the base on no held-out queries counts 0.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from core import surroundings
from honest_gains import test_gains
from torch import Tensor

from routerretriever import Collection, RouterRetriever, TrainingConfig
from routerretriever.cli.common import quiet_libraries
from routerretriever.encoder.query_batch import HIDDEN_BUDGET
from routerretriever.experts.held_out import HeldOutPlan
from routerretriever.experts.kinds import KindTraining, initial_map
from routerretriever.experts.negatives import Negatives, RankedDocuments
from routerretriever.experts.trainer import Chosen, Trainer
from routerretriever.experts.training_config import TrainedKinds
from routerretriever.experts.training_data import TrainingData
from routerretriever.experts.training_report import trained_expert_info
from routerretriever.kernels.exact_search import as_similarity
from routerretriever.lora.adapter import VECTOR_MAP, Adapter
from routerretriever.progress import Silent

RATIOS = (0.95, 1.0)
COMMON = (0.5, 1.0)
DECAYS, ANCHORS = (1.0, 10.0), (1.0, 10.0)
COMMON_EPOCHS = 8
LARGER_RANK, LARGER_ALPHA = 32, 64.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One way to train.

    Attributes:
        name: in the results.
        config: how.
        ratio: false negatives are left out from this part of the best positive's score on.
        common: weight of the common map that training starts from.
    """

    name: str
    config: TrainingConfig
    ratio: float | None = None
    common: float = 0.0


class MaskedNegatives(Negatives):
    """Negatives without those that the base finds as similar to a query as what is relevant to it."""

    def __init__(self, inner: Negatives, queries: Tensor, ratio: float) -> None:
        vars(self).update(vars(inner))
        self.queries, self.ratio = queries.to(self.vectors.device), ratio

    def candidates(self, rows: Sequence[int]) -> RankedDocuments:
        """Return the documents that some queries are ranked against."""
        ranked = super().candidates(rows)
        scores = (self.queries[rows] @ ranked.vectors.T).cpu()
        best = scores.masked_fill(~ranked.positive, -torch.inf).amax(dim=1, keepdim=True)
        ignored = (scores >= self.ratio * best) & ~ranked.positive
        if ranked.ignored is not None:
            ignored |= ranked.ignored
        return ranked._replace(ignored=ignored)


@dataclass(frozen=True, kw_only=True, eq=False)
class CommonStart(KindTraining):
    """Trains a map from a given one."""

    start: Tensor

    def _map_training(self, start: Adapter | None) -> Trainer:
        a, _ = initial_map(self.model.encoder).factors[VECTOR_MAP]
        trainer = Trainer(
            data=[part.finished(None) for part in self.data],
            config=self.config.for_map(),
            name=self.name,
            plan=self.plan,
            adapter=Adapter({VECTOR_MAP: (a, self.start.clone().requires_grad_())}, 1.0),
            key=f"{self.key}-common",
        )
        trainer.run(self.progress)
        trainer.checkpoint.delete()
        return trainer


class Experiment:
    """Collections that are trained on in several ways, with one seed."""

    def __init__(
        self,
        model: RouterRetriever,
        collections: Sequence[Collection],
        config: TrainingConfig,
        ways: Sequence[str],
    ) -> None:
        self.model, self.config, self.ways = model, config, ways
        self.data: dict[str, TrainingData] = {}
        # Anchors are made only if some setting has them; those of no weight count for nothing.
        prepared = replace(config, anchor=max(one.config.anchor or 0.0 for one in self.settings()))
        for collection in collections:
            documents = model.embed_collection(collection)
            data = TrainingData.prepare(
                model, collection, documents, prepared, HIDDEN_BUDGET // len(collections)
            )
            self.data[collection.name] = data

    def settings(self) -> list[Setting]:
        """Return the ways to train that were asked for."""
        return [one for one in self._every_setting() if not self.ways or one.name.split()[0] in self.ways]

    def _every_setting(self) -> list[Setting]:
        config = self.config
        masks = [Setting(name=f"mask {ratio}", config=config, ratio=ratio) for ratio in RATIOS]
        if config.kind == TrainedKinds.LORA:
            larger = replace(config, rank=LARGER_RANK, alpha=LARGER_ALPHA)
            # LoRA is dear, so one ratio of the masks is tried.
            return [
                Setting(name="plain", config=config),
                masks[-1],
                Setting(name=f"rank {LARGER_RANK}", config=larger),
            ]
        common = [Setting(name=f"common {weight}", config=config, common=weight) for weight in COMMON]
        decays = [
            Setting(name=f"decay {decay}", config=replace(config, weight_decay=decay)) for decay in DECAYS
        ]
        anchors = [
            Setting(name=f"anchor {weight}", config=replace(config, anchor=weight)) for weight in ANCHORS
        ]
        return [Setting(name="plain", config=config), *masks, *common, *decays, *anchors]

    def measured(self, name: str) -> dict[str, dict[str, float]]:
        """Return setting → gains and seconds on one collection."""
        data, rows, adapters = self.data[name], {}, {}
        queries = self.model.encode_query(list(data.train.queries.values()), expert="base")
        by_base = as_similarity(torch.from_numpy(queries), self.model.similarity_fn_name)
        wanted = self.settings()
        common = self.common_without(name) if any(one.common for one in wanted) else None
        for setting in wanted:
            own = data
            if setting.ratio is not None:
                own = replace(data, negatives=MaskedNegatives(data.negatives, by_base, setting.ratio))
            began = time.perf_counter()
            chosen, gain = self._trained(own, setting, common)
            rows[setting.name] = {"gain": gain, "seconds": round(time.perf_counter() - began, 1)}
            adapters[setting.name] = chosen.adapter
            print(name, setting.name, json.dumps(rows[setting.name]), flush=True)
        tested = test_gains(self.model, data.collection, adapters)
        for label, (gain, _) in tested.items():
            rows[label]["test_gain"] = gain
        print(name, "test", {label: round(100 * gain, 2) for label, (gain, _) in tested.items()}, flush=True)
        return rows

    def _trained(self, data: TrainingData, setting: Setting, common: Tensor | None) -> tuple[Chosen, float]:
        """Return the expert of one setting, and its gain on held-out queries that chose nothing."""
        plan = HeldOutPlan.of([data.collection.division_keys(data.held_out)])
        arguments: dict[str, Any] = {
            "model": self.model,
            "data": [data],
            "config": setting.config,
            "name": f"{data.collection.name}, {setting.name}",  # of the checkpoint, too
            "plan": plan,
            "progress": Silent(),
        }
        training = KindTraining(**arguments)
        if setting.common:
            assert common is not None
            training = CommonStart(**arguments, start=setting.common * common)
        (trained,) = training.run()
        trained.trainer.checkpoint.delete()
        chosen = trained.chosen[0]
        if trained.trainer.state.choices[0].best is None:
            return chosen._replace(adapter=chosen.adapter.scaled(0.0)), 0.0
        scores = [found.scores for found in trained.chosen]
        info = trained_expert_info([data], setting.config, plan, trained.base, scores, training=training.key)
        return chosen, info.gain

    def common_without(self, name: str) -> Tensor:
        """Return the matrix of a map that all other collections learnt together."""
        others = [data for other, data in self.data.items() if other != name]
        plan = HeldOutPlan.of([data.collection.division_keys(data.held_out) for data in others])
        trainer = Trainer(
            data=[data.finished(None) for data in others],
            config=replace(self.config.for_map(), epochs=COMMON_EPOCHS),
            name=f"all but {name}",
            plan=replace(plan, parts=plan.parts[:1]),
            adapter=initial_map(self.model.encoder),
            key=f"better-experts-{self.config.seed}-{'-'.join(self.data)}-{name}",
        )
        (chosen,) = trainer.run(Silent())
        trainer.checkpoint.delete()
        a, b = chosen.adapter.factors[VECTOR_MAP]
        return (b @ a * chosen.adapter.scaling).detach()


def summary(by_seed: dict[str, dict[str, dict[str, dict[str, float]]]]) -> dict[str, dict[str, float]]:
    """Return setting → mean gains, and the worst difference of a collection to ``plain`` on held-out queries."""
    collections = next(iter(by_seed.values()))
    settings = list(next(iter(collections.values())))

    def mean(setting: str, figure: str, name: str) -> float:
        return float(np.mean([seed[name][setting][figure] for seed in by_seed.values()]))

    rows: dict[str, dict[str, float]] = {}
    for setting in settings:
        differences = [mean(setting, "gain", name) - mean("plain", "gain", name) for name in collections]
        rows[setting] = {
            figure: float(np.mean([mean(setting, figure, name) for name in collections]))
            for figure in ("gain", "test_gain", "seconds")
        }
        rows[setting]["worst against plain"] = min(differences)
    return rows


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--kind", choices=[TrainedKinds.LORA, TrainedKinds.MAP], required=True)
    parser.add_argument("--only", nargs="+", required=True, help="collections, two at least")
    parser.add_argument("--seeds", default="0", help="comma-separated")
    parser.add_argument("--queries", type=int, default=1500, help="of a collection, at most")
    parser.add_argument("--ways", nargs="+", default=[], help="first words of settings, plain among them")
    given = parser.parse_args()
    quiet_libraries()
    model = RouterRetriever.create()
    collections = [Collection.load(given.data / name, cut_off=True) for name in given.only]
    by_seed: dict[str, Any] = {}
    for seed in given.seeds.split(","):
        kind = TrainedKinds(given.kind)
        # Maps of single steps, as all of these figures are.
        config = TrainingConfig(
            kind=kind, max_queries=given.queries, seed=int(seed), map_averaged_epochs=0.0, anchor=0.0
        )
        experiment = Experiment(model, collections, config, given.ways)
        by_seed[seed] = {name: experiment.measured(name) for name in given.only}
        # LoRA is dear, so every seed that is done is written.
        options = f"--kind {kind} --only {' '.join(given.only)} --seeds {','.join(by_seed)}"
        options += f" --queries {given.queries}" + (f" --ways {' '.join(given.ways)}" if given.ways else "")
        document = {
            "command": f"python benchmarks/better_experts.py DATA OUT.json {options}",
            **surroundings(),
            "mean": summary(by_seed),
            "by seed": by_seed,
        }
        given.out.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        print(json.dumps(document["mean"], indent=2), flush=True)


if __name__ == "__main__":
    main()
