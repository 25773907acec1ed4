"""Train the kinds of expert: LoRA on the base's layers, a map of the finished vector, or both in turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from routerretriever.encoder.protocol import RoutedModel
from routerretriever.encoder.routed_encoder import RoutedEncoder
from routerretriever.errors import ExpertError
from routerretriever.experts.adapter_weight import KEPT_GAIN
from routerretriever.experts.checkpoint import training_key
from routerretriever.experts.held_out import HeldOutPlan, HeldOutScores
from routerretriever.experts.trainer import Chosen, Trainer
from routerretriever.experts.training_config import TrainedKinds, TrainingConfig
from routerretriever.experts.training_data import TrainingData
from routerretriever.lora.adapter import VECTOR_MAP, Adapter
from routerretriever.lora.arithmetic import combine_adapters
from routerretriever.lora.layers import LoraLinear, TrainingPlan, initial_adapter
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


@dataclass(frozen=True, kw_only=True, eq=False)
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

    @cached_property
    def key(self) -> str:
        """A hash of everything that decides what the training ends with."""
        collections = [part.collection for part in self.data]
        return training_key(self.model, collections, self.config, self.name)

    def run(self) -> list[TrainedKind]:
        """Train what the configuration asks for: one kind, or with ``auto`` all of them."""
        kind = self.config.kind
        if kind == TrainedKinds.AUTO and not self.model.encoder.is_opened:
            kind = TrainedKinds.MAP
        if kind == TrainedKinds.MAP:
            return [self.map()]
        lora = self._lora()
        if kind == TrainedKinds.LORA:
            return [lora]
        starts: list[Chosen | None] = []
        for found, choice in zip(lora.chosen, lora.trainer.state.choices, strict=True):
            starts.append(None if choice.best is None else found)
        both = self.behind(starts, lora.base)
        if kind == TrainedKinds.AUTO:
            return [lora, self.map(), both]
        lora.trainer.checkpoint.delete()
        return [both]

    def _lora(self) -> TrainedKind:
        layers = target_layers(self.model.encoder.eval().lora_layers, self.config.targets)
        generator = torch.Generator().manual_seed(self.config.seed)
        adapter = initial_adapter(layers, self.config.rank, self.config.alpha, generator)
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

    def map(self) -> TrainedKind:
        """Train a map on the base's vectors."""
        chosen = [self._map_of(self._alone, number) for number in range(len(self.plan.parts))]
        return TrainedKind(base=self._alone.base, trainer=self._alone, chosen=chosen)

    def behind(self, starts: Sequence[Chosen | None], base: HeldOutScores) -> TrainedKind:
        """Train maps behind LoRA factors; where they gain nothing, the factors stay alone.

        Args:
            starts: the factors that each part of the plan chose; ``None`` where none beat the base, and a map
                stands alone.
            base: held-out scores of the base.
        """
        trainers: dict[str, Trainer] = {}
        chosen: list[Chosen] = []
        for number, start in enumerate(starts):
            if start is None:
                chosen.append(self._map_of(self._alone, number))
                continue
            version = start.adapter.fingerprint
            if version not in trainers:
                trainers[version] = self._map_training(start.adapter)
            chosen.append(self._with_map(start, trainers[version], number))
        trainer = list(trainers.values())[-1] if trainers else self._alone
        return TrainedKind(base=base, trainer=trainer, chosen=chosen)

    @cached_property
    def _alone(self) -> Trainer:
        """The training of a map on the base's vectors."""
        return self._map_training(None)

    def _with_map(self, start: Chosen, trainer: Trainer, number: int) -> Chosen:
        """Return LoRA factors with a map behind them, or alone where no map gained anything."""
        if trainer.state.choices[number].best is None:
            return start
        found = self._map_of(trainer, number)
        return found._replace(adapter=start.adapter.with_map(found.adapter))

    def _map_training(self, start: Adapter | None) -> Trainer:
        """Train a map on the vectors of the base, or on those of LoRA factors."""
        encoder, config = self.model.encoder, self.config.for_map()
        plan = None if start is None else TrainingPlan(on_device(start, encoder))
        data = self.data
        if not config.has_anchors:  # those of the layers need not be encoded for a map as well
            data = [replace(part, anchors=None) for part in data]
        trainer = Trainer(
            data=[part.finished(plan) for part in data],
            config=config,
            name=self.name if start is None else f"{self.name}, map",
            plan=self.plan,
            adapter=initial_map(encoder),
            key=f"{self.key}-map-{'base' if start is None else start.fingerprint}",
        )
        trainer.run(self.progress)
        trainer.checkpoint.delete()  # it takes a minute to train again
        return trainer

    def _map_of(self, trainer: Trainer, number: int) -> Chosen:
        """Return the map that a part of the plan chooses, at the smallest rank that keeps its gain there."""
        part, chosen = self.plan.parts[number], trainer.chosen[number]
        base = trainer.base.mean(part.selects)
        least = base + KEPT_GAIN * (chosen.scores.mean(part.selects) - base)

        dimension = len(chosen.adapter.factors[VECTOR_MAP][1])
        ranks = [max(1, round(share * dimension)) for share in _MAP_RANKS]
        whole = combine_adapters([chosen.adapter], [1.0], ranks[-1]).adapter
        a, b = whole.factors[VECTOR_MAP]  # the directions that change most come first
        found = chosen
        for rank in ranks:
            adapter = Adapter({VECTOR_MAP: (a[:rank].contiguous(), b[:, :rank].contiguous())}, whole.scaling)
            found = chosen._replace(adapter=adapter, scores=trainer.evaluate(adapter))
            if found.scores.mean(part.selects) >= least:
                break
        return found


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


def default_config(model: RoutedModel) -> TrainingConfig:
    """Return how an expert is trained where nobody says: LoRA, or a map where the base cannot be opened."""
    if model.encoder.is_opened:
        return TrainingConfig()
    return TrainingConfig(kind=TrainedKinds.MAP)


def check_kind(model: RoutedModel, config: TrainingConfig) -> None:
    """Refuse a kind of expert that the base has no room for.

    Raises:
        ExpertError: the base cannot be opened, and layers are to be changed.
    """
    if not model.encoder.is_opened and config.kind in (TrainedKinds.LORA, TrainedKinds.BOTH):
        raise ExpertError(
            f"The layers of the base '{model.encoder.base.id}' cannot be changed, so an expert of kind "
            f"'{config.kind}' is not possible. Train a map of its finished vectors: kind='map' (--kind map)."
        )


def initial_map(encoder: RoutedEncoder) -> Adapter:
    """Return a map that changes nothing yet: the identity, which is not trained, and a full matrix of zeros."""
    like = encoder.adapted_layers[VECTOR_MAP].weight
    identity = torch.eye(len(like), device=like.device)
    return Adapter({VECTOR_MAP: (identity, torch.zeros_like(identity).requires_grad_())}, 1.0)


def on_device(adapter: Adapter, encoder: RoutedEncoder) -> Adapter:
    """Return an adapter where the encoder computes."""
    device = encoder.adapted_layers[VECTOR_MAP].weight.device
    return adapter.mapped(lambda factor: factor.to(device))


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
