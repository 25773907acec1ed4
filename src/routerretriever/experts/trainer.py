"""The training loop of one expert."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from routerretriever.encoder.embedding_cache import default_directory
from routerretriever.errors import ExpertError
from routerretriever.experts.training_config import KEPT_GAIN, TrainingConfig
from routerretriever.experts.training_data import Part
from routerretriever.lora.adapter import Adapter
from routerretriever.lora.expert_info import ExpertInfo
from routerretriever.progress import Progress

if TYPE_CHECKING:
    from routerretriever.model import RouterRetriever


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """The outcome of one training.

    Attributes:
        expert: the expert's name.
        info: what is stored beside it, with held-out nDCG@10 of base and expert.
        p_value: two-sided paired t-test of the held-out gain.
        epochs: epochs begun.
        steps, best_step: optimiser steps in all, and at the kept state.
        strength: what the trained update was scaled by.
        seconds: wall time, without embedding documents.
        history: held-out nDCG@10 at every evaluation.
        resumed: whether an interrupted training was continued.
    """

    expert: str
    info: ExpertInfo
    p_value: float
    epochs: int
    steps: int
    best_step: int
    strength: float
    seconds: float
    history: tuple[float, ...]
    resumed: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self) | {"gain": self.info.gain}


class Trainer:
    """One training run: its data, its state, its checkpoint."""

    def __init__(self, model: RouterRetriever, parts: Sequence[Part], config: TrainingConfig, name: str) -> None:
        self.encoder, self.parts, self.config, self.name = model.encoder.eval(), parts, config, name
        generator = torch.Generator().manual_seed(config.seed)
        self.adapter = Adapter.initial(self._target_layers(), config.rank, config.alpha, generator)
        self.optimizer = torch.optim.AdamW(
            self.adapter.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.steps_per_epoch = sum(math.ceil(len(part.train) / config.batch_size) for part in parts)
        self.total_steps = self.steps_per_epoch * config.epochs
        self.step, self.stale, self.best_step = 0, 0, 0
        self.history: list[float] = []
        self.best: Adapter | None = None
        self.best_values: list[NDArray[np.float64]] | None = None
        self.plan: tuple[int, list[tuple[Part, list[int]]]] = (-1, [])
        self.strength = 1.0
        self.resumed = False
        self.checkpoint = default_directory() / "training" / f"{self._key()}.pt"

    def _target_layers(self) -> dict[str, Any]:
        targets = self.config.targets
        layers = {
            name: layer
            for name, layer in self.encoder.lora_layers.items()
            if targets is None or name.rpartition(".")[2] in targets
        }
        if not layers:
            raise ExpertError(
                f"No layer of the base is named {' or '.join(targets or ())}. Leave out the targets, or name "
                f"some of: {', '.join(sorted({n.rpartition('.')[2] for n in self.encoder.lora_layers}))}."
            )
        return layers

    def _key(self) -> str:
        content: list[Any] = [self.encoder.fingerprint, self.encoder.branch_layer, self.name, asdict(self.config)]
        for part in self.parts:
            content += [sorted(part.train.queries.items()), sorted(part.train.qrels), len(part.documents)]
        return hashlib.blake2b(json.dumps(content, default=str).encode(), digest_size=16).hexdigest()

    def run(self, progress: Progress, started: float) -> tuple[TrainingReport, Adapter | None]:
        base_values = self._evaluate(self.adapter.scaled(0.0))
        self._resume()
        interval = max(1, self.steps_per_epoch // self.config.evaluations)
        with torch.random.fork_rng(), progress.task(f"train {self.name}", self.total_steps) as task:
            task.advance(self.step)
            while self.step < self.total_steps and self.stale < self.config.patience:
                self._one_step()
                task.advance(1, f"held-out nDCG@10 {self._best_score(base_values):.3f}")
                if self.step % interval == 0 or self.step == self.total_steps:
                    self._check_held_out(base_values)
                    self._save_checkpoint()
        self._shrink(base_values)
        best_values = base_values if self.best_values is None else self.best_values
        return self._report(base_values, best_values, time.perf_counter() - started), self.best

    def _best_score(self, base_values: list[NDArray[np.float64]]) -> float:
        return _macro_mean(base_values if self.best_values is None else self.best_values)

    def _one_step(self) -> None:
        # Seeding every step by its number makes a resumed run repeat the uninterrupted one.
        torch.manual_seed(self.config.seed * 1_000_003 + self.step)
        part, rows = self._batch_of_step()
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * self._schedule()
        loss = part.loss(self.adapter, rows, self.config)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.step += 1

    def _batch_of_step(self) -> tuple[Part, list[int]]:
        """The queries of this step: a new order every epoch, decided by the seed alone."""
        epoch, number = divmod(self.step, self.steps_per_epoch)
        if self.plan[0] != epoch:
            generator = torch.Generator().manual_seed(self.config.seed * 7919 + epoch)
            batches = [(part, rows) for part in self.parts for rows in part.batches(self.config, generator)]
            order = torch.randperm(len(batches), generator=generator).tolist()
            self.plan = epoch, [batches[index] for index in order]
        return self.plan[1][number]

    def _schedule(self) -> float:
        warm = max(1, round(self.config.warmup * self.total_steps))
        if self.step < warm:
            return (self.step + 1) / warm
        return (self.total_steps - self.step) / max(1, self.total_steps - warm)

    def _evaluate(self, adapter: Adapter) -> list[NDArray[np.float64]]:
        return [part.evaluate(adapter) for part in self.parts]

    def _check_held_out(self, base_values: list[NDArray[np.float64]]) -> None:
        values = self._evaluate(self.adapter)
        self.history.append(_macro_mean(values))
        if _macro_mean(values) > self._best_score(base_values):
            self.best, self.best_values = self.adapter.detached(), values
            self.best_step, self.stale = self.step, 0
        else:
            self.stale += 1

    def _shrink(self, base_values: list[NDArray[np.float64]]) -> None:
        """Scale the kept adapter down as far as the held-out queries allow."""
        if self.best is None or self.best_values is None:
            return
        base = _macro_mean(base_values)
        device = self.adapter.parameters()[0].device
        least = base + KEPT_GAIN * (_macro_mean(self.best_values) - base)
        most = self._most_strength()
        for strength in sorted({s for s in self.config.strengths if s < most} | ({most} - {1.0})):
            scaled = self.best.scaled(strength)
            values = self._evaluate(scaled.mapped(lambda factor: factor.to(device)))
            if _macro_mean(values) >= least or strength == most:
                self.best, self.best_values, self.strength = scaled, values, strength
                return

    def _most_strength(self) -> float:
        only_crops = self._generated().get("crops") == sum(len(part.train) for part in self.parts)
        return self.config.crops_strength if only_crops else 1.0

    def _report(
        self, base_values: list[NDArray[np.float64]], best_values: list[NDArray[np.float64]], seconds: float
    ) -> TrainingReport:
        base, best = np.concatenate(base_values), np.concatenate(best_values)
        changed = bool(np.any(best != base))
        info = ExpertInfo(
            collection=", ".join(part.collection.name for part in self.parts),
            queries=sum(len(part.train) for part in self.parts),
            held_out=len(base),
            base_ndcg=_macro_mean(base_values),
            expert_ndcg=_macro_mean(best_values),
            config=asdict(self.config),
            generated=self._generated(),
            source=", ".join(dict.fromkeys(part.collection.source for part in self.parts if part.collection.source)),
            held_out_generated=sum(
                q in part.collection.generated for part in self.parts for q in part.held_out.queries
            ),
        )
        return TrainingReport(
            expert=self.name,
            info=info,
            p_value=float(stats.ttest_rel(best, base).pvalue) if changed and len(base) > 1 else 1.0,
            epochs=math.ceil(self.step / self.steps_per_epoch),
            steps=self.step,
            best_step=self.best_step,
            strength=self.strength,
            seconds=seconds,
            history=tuple(self.history),
            resumed=self.resumed,
        )

    def _generated(self) -> dict[str, int]:
        ways = Counter(
            part.collection.generated.get(query_id) for part in self.parts for query_id in part.train.queries
        )
        return {way: count for way, count in sorted(ways.items(), key=str) if way is not None}

    # A checkpoint holds everything that decides the rest of the run.

    def _save_checkpoint(self) -> None:
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.checkpoint.with_suffix(f".{os.getpid()}.tmp")
        state = {
            "factors": self.adapter.detached().factors,
            "optimizer": self.optimizer.state_dict(),
            "best": None if self.best is None else self.best.factors,
            "best_values": None if self.best_values is None else [torch.from_numpy(v) for v in self.best_values],
            "progress": [self.step, self.stale, self.best_step],
            "history": self.history,
        }
        torch.save(state, temporary)
        temporary.replace(self.checkpoint)

    def _resume(self) -> None:
        if not self.checkpoint.exists():
            return
        try:
            state = torch.load(self.checkpoint, weights_only=True)
        except Exception:  # a damaged checkpoint only costs the work it held
            self.forget()
            return
        with torch.no_grad():
            for name, (a, b) in state["factors"].items():
                self.adapter.factors[name][0].copy_(a)
                self.adapter.factors[name][1].copy_(b)
        self.optimizer.load_state_dict(state["optimizer"])
        if state["best"] is not None:
            self.best = Adapter(state["best"], self.adapter.scaling)
            self.best_values = [values.numpy() for values in state["best_values"]]
        self.step, self.stale, self.best_step = state["progress"]
        self.history, self.resumed = list(state["history"]), True

    def forget(self) -> None:
        """Delete the checkpoint."""
        Path(self.checkpoint).unlink(missing_ok=True)


def _macro_mean(values: Sequence[NDArray[np.float64]]) -> float:
    """Mean over collections of the means over their queries."""
    return float(np.mean([column.mean() for column in values]))
