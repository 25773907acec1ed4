"""The models of a suite: trained once, then read from its output folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from routerretriever.bench.catalogue import MULTI_TASKS
from routerretriever.bench.suite import Suite
from routerretriever.data.collection import Collection
from routerretriever.experts.checkpoint import training_key
from routerretriever.experts.train import train_expert
from routerretriever.experts.training_config import TrainedKinds, TrainingConfig
from routerretriever.lora.adapter import Adapter
from routerretriever.model import RouterRetriever
from routerretriever.progress import Progress

Job = tuple[Sequence[Collection], TrainingConfig]
"""What an expert is trained on, and how."""


@dataclass(frozen=True, slots=True)
class Models:
    """Creates, trains and reads the models of a suite.

    Attributes:
        suite: says how they are made.
        folder: each model has a folder below it.
        progress: shows the training.
    """

    suite: Suite
    folder: Path
    progress: Progress

    def create(self, **settings: Any) -> RouterRetriever:
        """Create a model of the suite's base and preset, without experts."""
        if self.suite.preset == "paper":
            return RouterRetriever.create_like_paper(self.suite.base)
        return RouterRetriever.create(self.suite.base, **settings)

    def trained(
        self,
        name: str,
        jobs: Mapping[str, Job],
        *,
        start: str | None = None,
        **settings: Any,
    ) -> RouterRetriever:
        """Return a model with an expert for each job; train those that its folder lacks.

        Args:
            name: of the model's folder.
            jobs: expert → what it is trained on.
            start: name of a model that a new one begins as.
            settings: of a new model.
        """
        path = self.folder / name
        source = path
        if start is not None and not path.exists():
            source = self.folder / start
        model = self.create(**settings)
        if source.exists():
            saved = RouterRetriever.from_pretrained(source)
            model = saved if _is_alike(saved, model) else model
        for expert, (collections, config) in jobs.items():
            key = training_key(model, collections, config, expert)
            if expert in model.experts and model.experts[expert].training == key:
                continue
            report = train_expert(
                model, collections, name=expert, config=config, force=True, progress=self.progress
            )
            model.save_pretrained(path)
            self._record(key, report.seconds)
        return model

    def seconds(self, model: RouterRetriever) -> dict[str, float]:
        """Return expert → how long its training took, for those that were trained in this folder."""
        recorded = self._recorded()
        return {
            name: recorded[info.training] for name, info in model.experts.items() if info.training in recorded
        }

    def _recorded(self) -> dict[str, float]:
        """Return training key → seconds."""
        if not self._seconds_file.exists():
            return {}
        recorded: dict[str, float] = json.loads(self._seconds_file.read_text(encoding="utf-8"))
        return recorded

    def _record(self, key: str, seconds: float) -> None:
        recorded = self._recorded() | {key: round(seconds, 1)}
        temporary = self._seconds_file.with_suffix(".tmp")
        temporary.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")
        temporary.replace(self._seconds_file)

    @property
    def _seconds_file(self) -> Path:
        return self.folder / "training-seconds.json"

    def rivals(
        self, seed: int, names: Sequence[str], collections: Sequence[Collection]
    ) -> dict[str, RouterRetriever]:
        """Return multi-task adapters of one seed, each in a model of its own."""
        config = self.suite.multi_task_config(seed)
        sizes = [len(collection.train_and_held_out()[0]) for collection in collections]
        smallest = min(sizes)
        rank = config.rank * len(collections)
        # α grows with the rank, so that the scale of the LoRA delta stays the same.
        settings = (
            config,
            replace(config, max_queries=smallest),
            replace(config, rank=rank, alpha=4.0 * rank),
            replace(config, kind=TrainedKinds.MAP),
        )
        configs = dict(zip(MULTI_TASKS, settings, strict=True))
        rivals = {}
        for name in names:
            job = (collections, configs[name])
            rivals[name] = self.trained(f"seed-{seed}-{name}", {name: job})
        return rivals

    def with_adapters(self, model: RouterRetriever, adapters: Mapping[str, Adapter]) -> RouterRetriever:
        """Return a copy of a model with more adapters."""
        copy = self.create()
        for name, adapter in {**model.state.experts, **adapters}.items():
            copy.add_expert(name, adapter, model.experts.get(name))
        return copy


def _is_alike(saved: RouterRetriever, wanted: RouterRetriever) -> bool:
    """Return whether a model has the base and the layers that a suite asks for."""
    found, asked = (
        (model.identity, model.encoder.branch_layer, model.encoder.route_layer, model.similarity_fn_name)
        for model in (saved, wanted)
    )
    return found == asked
