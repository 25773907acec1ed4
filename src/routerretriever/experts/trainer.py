"""The training loop of one expert."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from routerretriever.experts.adapter_weight import smallest_weight
from routerretriever.experts.checkpoint import Checkpoint, Choice, TrainingState
from routerretriever.experts.held_out import HeldOutPart, HeldOutPlan, HeldOutScores
from routerretriever.experts.training_config import TrainingConfig
from routerretriever.experts.training_data import TrainingData
from routerretriever.experts.weight_average import first_average, move_average
from routerretriever.lora.adapter import Adapter
from routerretriever.progress import Progress


class Chosen(NamedTuple):
    """An adapter that was chosen and scaled, its weight, and its held-out scores."""

    adapter: Adapter
    weight: float
    scores: HeldOutScores


class Trainer:
    """One training: its data, its state and its checkpoint.

    Attributes:
        plan: which held-out queries choose the expert, and which measure it.
        key: a hash of everything that decides the training.
        checkpoint: where an interrupted training is kept.
        base: held-out scores at the beginning, which are those of the base unless an adapter encoded the data.
        chosen: what each part of the plan chose, after :meth:`run`.
    """

    def __init__(
        self,
        *,
        data: Sequence[TrainingData],
        config: TrainingConfig,
        name: str,
        plan: HeldOutPlan,
        adapter: Adapter,
        key: str,
    ) -> None:
        """Prepare a training.

        Args:
            data: of each collection.
            config: how it is trained.
            name: of the expert, for progress.
            plan: which held-out queries choose the expert, and which measure it.
            adapter: where it begins; its factors are trained in place, where they need gradients.
            key: of everything that decides what the training ends with.
        """
        trained = [factor for factor in adapter.parameters() if factor.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=config.weight_decay)
        self.data, self.config, self.name, self.plan = data, config, name, plan
        choices = [Choice() for _ in self.plan.parts]
        average = first_average(adapter) if config.averaged_epochs else None
        self.state = TrainingState(adapter=adapter, average=average, optimizer=optimizer, choices=choices)
        self.checkpoint = Checkpoint.of(key, len(choices))
        self.steps_per_epoch = sum(math.ceil(len(part.train) / config.batch_size) for part in data)
        self.total_steps = self.steps_per_epoch * config.epochs
        self._epoch = -1
        self._batches: list[tuple[TrainingData, list[int]]] = []

    def run(self, progress: Progress) -> list[Chosen]:
        """Train until the held-out queries that choose stop improving.

        Returns:
            What each part of the plan chooses: the best adapter by its queries; the last one if none
            beat the beginning.
        """
        state = self.state
        self.base = self.evaluate(state.adapter.scaled(0.0))
        self.checkpoint.load_into(state)
        interval = max(1, self.steps_per_epoch // self.config.evaluations)
        with torch.random.fork_rng(), progress.task(f"train {self.name}", self.total_steps) as task:
            task.advance(state.step)
            while state.step < self.total_steps and any(map(self._goes_on, state.choices)):
                self._one_step()
                best = state.choices[0].scores or self.base
                task.advance(1, f"held-out nDCG@10 {best.mean(self.plan.parts[0].selects):.3f}")
                if state.step % interval == 0 or state.step == self.total_steps:
                    self._check_held_out()
                    self.checkpoint.save(state)

        self.chosen = self._choose()
        return self.chosen

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
        if state.average is not None:
            span = self.config.averaged_epochs * self.steps_per_epoch
            move_average(state.average, state.adapter, state.step, span)

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

    def evaluate(self, adapter: Adapter) -> HeldOutScores:
        """Return held-out scores under an adapter."""
        device = self.state.adapter.parameters()[0].device
        placed = adapter.mapped(lambda factor: factor.to(device))
        return HeldOutScores(tuple(part.evaluate(placed) for part in self.data))

    def _goes_on(self, choice: Choice) -> bool:
        return choice.without_improvement < self.config.patience

    def _check_held_out(self) -> None:
        state, scores = self.state, self.evaluate(self.state.candidate)
        copy: Adapter | None = None
        if self._goes_on(state.choices[0]):
            state.history.append(scores.mean(self.plan.parts[0].selects))
        for part, choice in zip(self.plan.parts, state.choices, strict=True):
            if not self._goes_on(choice):  # a training by these queries alone would have ended
                continue
            best = choice.scores or self.base
            if scores.mean(part.selects) > best.mean(part.selects):
                copy = copy or state.candidate.detached()
                choice.best, choice.scores = copy, scores
                choice.step, choice.without_improvement = state.step, 0
            else:
                choice.without_improvement += 1

    def _choose(self) -> list[Chosen]:
        """Return the adapter that each part of the plan chooses, at the weight that it chooses."""
        known: dict[tuple[int, float], HeldOutScores] = {}
        parts = zip(self.plan.parts, self.state.choices, strict=True)
        return [self._choose_by(part, choice, known) for part, choice in parts]

    def _choose_by(
        self, part: HeldOutPart, choice: Choice, known: dict[tuple[int, float], HeldOutScores]
    ) -> Chosen:
        """Return what one part chooses.

        Args:
            part: the queries.
            choice: the best state by them.
            known: (step, weight) → scores that were measured already, which are added
                to.
        """
        trained, scores = choice.best, choice.scores
        if trained is None or scores is None:  # nothing beat the base, so the last state is left
            last = (self.state.step, 1.0)
            if last not in known:
                known[last] = self.evaluate(self.state.candidate)
            return Chosen(self.state.candidate.detached(), 1.0, known[last])

        def scores_at(weight: float) -> HeldOutScores:
            key = (choice.step, weight)
            if key not in known:
                known[key] = self.evaluate(trained.scaled(weight))
            return known[key]

        known.setdefault((choice.step, 1.0), scores)
        only_crops = all(data.only_crops for data in self.data)
        weight = smallest_weight(self.base, scores_at, part.selects, self.config, only_crops=only_crops)
        if weight == 1.0:
            return Chosen(trained, weight, scores)
        return Chosen(trained.scaled(weight), weight, scores_at(weight))
