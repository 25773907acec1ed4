"""The training loop of one expert."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence

import torch

from routerretriever.encoder.protocol import RoutedModel
from routerretriever.errors import ExpertError
from routerretriever.evaluation.statistics import paired_p_value
from routerretriever.experts.adapter_weight import WeightedAdapter, smallest_weight
from routerretriever.experts.checkpoint import Checkpoint, TrainingState
from routerretriever.experts.held_out import HeldOutScores
from routerretriever.experts.training_config import TrainingConfig
from routerretriever.experts.training_data import TrainingData
from routerretriever.experts.training_report import TrainingReport, trained_expert_info
from routerretriever.lora.adapter import Adapter
from routerretriever.lora.layers import LoraLinear
from routerretriever.progress import Progress


class Trainer:
    """One training: its data, its state and its checkpoint.

    Attributes:
        checkpoint: where an interrupted training is kept.
    """

    def __init__(
        self,
        model: RoutedModel,
        data: Sequence[TrainingData],
        config: TrainingConfig,
        name: str,
    ) -> None:
        layers = target_layers(model.encoder.eval().lora_layers, config.targets)
        generator = torch.Generator().manual_seed(config.seed)
        adapter = Adapter.initial(layers, config.rank, config.alpha, generator)
        optimizer = torch.optim.AdamW(
            adapter.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.data, self.config, self.name = data, config, name
        self.state = TrainingState(adapter=adapter, optimizer=optimizer)
        self.checkpoint = Checkpoint.of(model, data, config, name)
        self.steps_per_epoch = sum(math.ceil(len(part.train) / config.batch_size) for part in data)
        self.total_steps = self.steps_per_epoch * config.epochs
        self._epoch = -1
        self._batches: list[tuple[TrainingData, list[int]]] = []

    def run(self, progress: Progress, started: float) -> tuple[TrainingReport, Adapter]:
        """Train until the held-out queries stop improving.

        Args:
            progress: where to report.
            started: ``time.perf_counter()`` when the work began.

        Returns:
            The report, and the best adapter; the last one if none beat the base.
        """
        state = self.state
        base = self._evaluate(state.adapter.scaled(0.0))
        self.checkpoint.load_into(state)
        interval = max(1, self.steps_per_epoch // self.config.evaluations)
        with torch.random.fork_rng(), progress.task(f"train {self.name}", self.total_steps) as task:
            task.advance(state.step)
            while state.step < self.total_steps and state.without_improvement < self.config.patience:
                self._one_step()
                best = base if state.best_scores is None else state.best_scores
                task.advance(1, f"held-out nDCG@10 {best.mean:.3f}")
                if state.step % interval == 0 or state.step == self.total_steps:
                    self._check_held_out(best)
                    self.checkpoint.save(state)

        kept = self._kept(base)
        return self._report(base, kept, time.perf_counter() - started), kept.adapter

    def _one_step(self) -> None:
        state = self.state
        # Seeding every step by its number makes a resumed run repeat the uninterrupted one.
        torch.manual_seed(self.config.seed * 1_000_003 + state.step)
        part, rows = self._batch_of_step()
        for group in state.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * self._schedule()
        loss = part.loss(state.adapter, rows, self.config)
        state.optimizer.zero_grad()
        loss.backward()
        state.optimizer.step()
        state.step += 1

    def _batch_of_step(self) -> tuple[TrainingData, list[int]]:
        """Return the queries of this step: a new order every epoch, decided by the seed alone."""
        epoch, number = divmod(self.state.step, self.steps_per_epoch)
        if self._epoch != epoch:
            generator = torch.Generator().manual_seed(self.config.seed * 7919 + epoch)
            batches = [(part, rows) for part in self.data for rows in part.batches(self.config, generator)]
            order = torch.randperm(len(batches), generator=generator).tolist()
            self._epoch, self._batches = epoch, [batches[index] for index in order]
        return self._batches[number]

    def _schedule(self) -> float:
        """Return the part of the learning rate that this step uses."""
        step, warm = self.state.step, max(1, round(self.config.warmup * self.total_steps))
        if step < warm:
            return (step + 1) / warm
        return (self.total_steps - step) / max(1, self.total_steps - warm)

    def _evaluate(self, adapter: Adapter) -> HeldOutScores:
        device = self.state.adapter.parameters()[0].device
        placed = adapter.mapped(lambda factor: factor.to(device))
        return HeldOutScores(tuple(part.evaluate(placed) for part in self.data))

    def _check_held_out(self, best: HeldOutScores) -> None:
        state = self.state
        scores = self._evaluate(state.adapter)
        state.history.append(scores.mean)
        if scores.mean > best.mean:
            state.best, state.best_scores = state.adapter.detached(), scores
            state.best_step, state.without_improvement = state.step, 0
        else:
            state.without_improvement += 1

    def _kept(self, base: HeldOutScores) -> WeightedAdapter:
        """Return the adapter that becomes the expert."""
        state = self.state
        if state.best is None or state.best_scores is None:
            return WeightedAdapter(state.adapter.detached(), 1.0, base)
        trained = WeightedAdapter(state.best, 1.0, state.best_scores)
        only_crops = all(part.only_crops for part in self.data)
        return smallest_weight(trained, base, self._evaluate, self.config, only_crops=only_crops)

    def _report(self, base: HeldOutScores, kept: WeightedAdapter, seconds: float) -> TrainingReport:
        state = self.state
        return TrainingReport(
            expert=self.name,
            info=trained_expert_info(self.data, self.config, base, kept.scores),
            p_value=paired_p_value(kept.scores.joined, base.joined),
            epochs=math.ceil(state.step / self.steps_per_epoch),
            steps=state.step,
            best_step=state.best_step,
            adapter_weight=kept.weight,
            seconds=seconds,
            history=tuple(state.history),
            resumed=state.resumed,
        )


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
