"""Train the kinds of expert: LoRA on the base's layers, a map of the finished vector, or both in turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from routerretriever.encoder.protocol import RoutedModel
from routerretriever.encoder.routed_encoder import RoutedEncoder
from routerretriever.errors import ExpertError
from routerretriever.experts.adapter_weight import KEPT_GAIN
from routerretriever.experts.checkpoint import Choice, training_key
from routerretriever.experts.held_out import HeldOutPart, HeldOutPlan, HeldOutScores
from routerretriever.experts.trainer import Chosen, Trainer
from routerretriever.experts.training_config import TrainedKinds, TrainingConfig
from routerretriever.experts.training_data import TrainingData
from routerretriever.lora.adapter import VECTOR_MAP, Adapter
from routerretriever.lora.arithmetic import combine_adapters
from routerretriever.lora.layers import LoraLinear, TrainingPlan
from routerretriever.progress import Progress

_MAP_RANKS = (1 / 12, 1 / 6, 1 / 3, 1 / 2)
"""Ranks of a map as parts of the dimension. Half of it takes the room of a full matrix."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainedKind:
    """Experts of one kind from one training.

    Attributes:
        base: held-out scores of the base.
        trainer: the training; the last one, where there were several.
        chosen: what each part of the held-out plan chooses.
    """

    base: HeldOutScores
    trainer: Trainer
    chosen: list[Chosen]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KindTraining:
    """Trains experts on the same data in several ways.

    Attributes:
        model: has the base.
        data: of each collection.
        config: how.
        name: of the expert.
        plan: which held-out queries choose, and which measure.
        progress: where to report.
    """

    model: RoutedModel
    data: Sequence[TrainingData]
    config: TrainingConfig
    name: str
    plan: HeldOutPlan
    progress: Progress

    @property
    def key(self) -> str:
        """A hash of everything that decides what the training ends with."""
        collections = [part.collection for part in self.data]
        return training_key(self.model, collections, self.config, self.name)

    def run(self) -> list[TrainedKind]:
        """Train what the configuration asks for: one kind, or with ``auto`` all of them."""
        kind = self.config.kind
        if kind == TrainedKinds.MAP:
            return [self._map()]
        lora = self._lora()
        if kind == TrainedKinds.LORA:
            return [lora]
        if kind == TrainedKinds.BOTH:
            return [self._both(lora)]
        return [lora, self._map(), self._both(lora)]

    def _lora(self) -> TrainedKind:
        layers = target_layers(self.model.encoder.eval().lora_layers, self.config.targets)
        generator = torch.Generator().manual_seed(self.config.seed)
        adapter = Adapter.initial(layers, self.config.rank, self.config.alpha, generator)
        trainer = Trainer(
            data=self.data,
            config=self.config,
            name=self.name,
            plan=self.plan,
            adapter=adapter,
            key=self.key,
        )
        chosen = trainer.run(self.progress)
        return TrainedKind(base=trainer.base, trainer=trainer, chosen=chosen)

    def _map(self) -> TrainedKind:
        trainer, chosen = self._map_on(None)
        return TrainedKind(base=trainer.base, trainer=trainer, chosen=chosen)

    def _both(self, lora: TrainedKind) -> TrainedKind:
        """Train a map on top of the LoRA factors that each part of the plan chose; without gain there is none."""
        trainer, chosen = lora.trainer, list[Chosen]()
        known: dict[str, tuple[Trainer, list[Chosen]]] = {}
        for number, start in enumerate(lora.chosen):
            version = start.adapter.fingerprint
            if version not in known:
                known[version] = self._map_on(start.adapter)
            trainer, maps = known[version]
            chosen.append(_joined(start, maps[number], trainer.state.choices[number]))
        return TrainedKind(base=lora.base, trainer=trainer, chosen=chosen)

    def mapped(self, start: Chosen | None) -> list[Chosen]:
        """Return the maps that the parts of the plan choose: on the base's vectors, or behind LoRA factors."""
        if start is None:
            return self._map().chosen
        trainer, maps = self._map_on(start.adapter)
        parts = zip(maps, trainer.state.choices, strict=True)
        return [_joined(start, found, choice) for found, choice in parts]

    def _map_on(self, start: Adapter | None) -> tuple[Trainer, list[Chosen]]:
        """Train a map on the vectors of the base, or on those of LoRA factors."""
        encoder, config = self.model.encoder, self.config.for_map()
        plan = None if start is None else TrainingPlan(on_device(start, encoder))
        data = [part.finished(plan) for part in self.data]
        name = self.name if start is None else f"{self.name}, map"
        key = f"{self.key}-map-{'base' if start is None else start.fingerprint}"
        trainer = Trainer(
            data=data, config=config, name=name, plan=self.plan, adapter=initial_map(encoder), key=key
        )
        chosen = trainer.run(self.progress)
        trainer.checkpoint.delete()  # it takes a minute to train again
        parts = zip(self.plan.parts, chosen, strict=True)
        return trainer, [_of_low_rank(trainer, part, found) for part, found in parts]


def _joined(start: Chosen, found: Chosen, choice: Choice) -> Chosen:
    """Return LoRA factors with a map behind them, or alone where no map gained anything."""
    if choice.best is None:
        return start
    return found._replace(adapter=start.adapter.with_map(found.adapter))


def best_kind(trained: Sequence[TrainedKind], plan: HeldOutPlan) -> tuple[TrainedKind, list[Chosen]]:
    """Return the kind whose adapter the choosing held-out queries prefer, and what each part of the plan chooses.

    Every part chooses by its own queries, so that those that it measures have no say.
    """
    chosen: list[Chosen] = []
    for number, part in enumerate(plan.parts):
        means = [kind.chosen[number].scores.mean(part.selects) for kind in trained]
        chosen.append(trained[means.index(max(means))].chosen[number])
    first = next(kind for kind in trained if kind.chosen[0] is chosen[0])
    return first, chosen


def initial_map(encoder: RoutedEncoder) -> Adapter:
    """Return a map that changes nothing yet: the identity, which is not trained, and a full matrix of zeros."""
    like = encoder.adapted_layers[VECTOR_MAP].weight
    identity = torch.eye(len(like), device=like.device)
    return Adapter({VECTOR_MAP: (identity, torch.zeros_like(identity).requires_grad_())}, 1.0)


def on_device(adapter: Adapter, encoder: RoutedEncoder) -> Adapter:
    """Return an adapter where the encoder computes."""
    device = encoder.adapted_layers[VECTOR_MAP].weight.device
    return adapter.mapped(lambda factor: factor.to(device))


def _of_low_rank(trainer: Trainer, part: HeldOutPart, chosen: Chosen) -> Chosen:
    """Return a map at the smallest rank that keeps its gain on the queries that choose."""
    base = trainer.base.mean(part.selects)
    least = base + KEPT_GAIN * (chosen.scores.mean(part.selects) - base)
    found = chosen
    for share in _MAP_RANKS:
        rank = max(1, round(share * len(chosen.adapter.factors[VECTOR_MAP][1])))
        adapter = combine_adapters([chosen.adapter], [1.0], rank).adapter
        found = chosen._replace(adapter=adapter, scores=trainer.evaluate(adapter))
        if found.scores.mean(part.selects) >= least:
            break
    return found


def target_layers(layers: Mapping[str, LoraLinear], targets: Sequence[str] | None) -> dict[str, LoraLinear]:
    """Return the layers that are adapted.

    Args:
        layers: name → each layer that experts may change.
        targets: last parts of names; ``None`` is every layer.

    Raises:
        ExpertError: no layer has such a name.
    """
    if targets is None:
        return dict(layers)
    chosen = {name: layer for name, layer in layers.items() if name.rpartition(".")[2] in targets}
    if not chosen:
        names = ", ".join(sorted({name.rpartition(".")[2] for name in layers}))
        raise ExpertError(
            f"No layer of the base is named {' or '.join(targets)}. Leave out the targets, or name some of: {names}."
        )
    return chosen
