"""Train one expert on the query side, against cached document embeddings.

Documents are frozen, so training touches queries only: the hidden states below the branch layer are
computed once, and every step runs the upper layers and one product with the document matrix.
"""

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

from routerretriever.collection import Collection
from routerretriever.embedding_cache import default_directory
from routerretriever.errors import CollectionError, ExpertError, NoGainError
from routerretriever.lora import Adapter
from routerretriever.precision import has_bfloat16
from routerretriever.progress import Progress, Silent
from routerretriever.queries import HIDDEN_BUDGET
from routerretriever.storage import ExpertInfo, check_expert_name
from routerretriever.training_data import Part

if TYPE_CHECKING:
    from routerretriever.model import RouterRetriever

KEPT_GAIN = 0.98
"""Share of the held-out gain that shrinking an expert must keep."""


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """How an expert is trained.

    Attributes:
        rank, alpha, dropout: LoRA's r, α and dropout.
        targets: last parts of the names of the layers to adapt; ``None`` is every linear layer.
        learning_rate, weight_decay: of AdamW; linear warm-up over ``warmup`` of all steps, then linear decay.
        batch_size: queries a step.
        epochs: at most; early stopping may end sooner.
        temperature: similarities are divided by it before the softmax.
        in_batch: softmax over the batch's own positives only (the paper's setting).
        corpus_limit: the softmax runs over the whole corpus up to this many documents; beyond it over
            the batch's positives, ``hard_negatives`` mined for each query with the base, and a
            random sample of ``sampled_negatives``.
        evaluations: held-out evaluations an epoch.
        patience: evaluations without improvement before training stops.
        strengths: after training the update is scaled by the smallest of these that keeps ``KEPT_GAIN`` of
            the held-out gain: a smaller step away from the base costs next to nothing where the
            expert belongs and halves the harm elsewhere (as in WiSE-FT, arXiv 2109.01903).
        crops_strength: the most that is kept where all queries are crops of passages. Held-out queries are crops there,
            too, and do not show where the expert leaves true ones behind: with more, it fell below the base on two of
            four collections' true held-out queries. Titles, and a mixture, need no such limit.
        precision: ``bf16`` multiplies by the frozen weights in bfloat16 while learning, ``fp32`` does not,
            ``auto`` does where the processor has instructions for it. Evaluations are always fp32.
        max_queries: train on at most this many queries of a collection, chosen by ``seed``.
        seed: of everything random.
    """

    rank: int = 8
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] | None = None
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    warmup: float = 0.1
    batch_size: int = 32
    epochs: int = 8
    temperature: float = 0.03
    in_batch: bool = False
    corpus_limit: int = 200_000
    hard_negatives: int = 32
    sampled_negatives: int = 8192
    evaluations: int = 2
    patience: int = 6
    strengths: tuple[float, ...] = (0.5, 0.625, 0.75, 0.875, 1.0)
    crops_strength: float = 0.5
    precision: str = "auto"
    max_queries: int | None = None
    seed: int = 0

    def uses_half(self, device: torch.device) -> bool:
        """Whether products with the frozen weights are computed in bfloat16 on this device."""
        if self.precision != "auto":
            return self.precision == "bf16"
        return has_bfloat16(device)


PRESETS = {
    "default": TrainingConfig(),
    # arXiv 2409.02685, section 4; temperature and dropout from the official code.
    "paper": TrainingConfig(
        dropout=0.1,
        temperature=0.05,
        targets=("query", "value", "q", "v", "q_proj", "v_proj", "Wqkv"),
        learning_rate=1e-4,
        batch_size=256,
        epochs=500,
        in_batch=True,
        evaluations=1,
        patience=5,
        strengths=(1.0,),
        crops_strength=1.0,
        seed=10,
    ),
}


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


def train_expert(
    model: RouterRetriever,
    collection: Collection | Sequence[Collection],
    *,
    name: str | None = None,
    config: TrainingConfig | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> TrainingReport:
    """Train an expert on a collection's train queries and add it to the model.

    Args:
        model: gains one expert; nothing else of it changes.
        collection: needs a train split; its dev split, or a part of train, stops the training early.
            Several collections make a generalist: every batch comes from one of them, all data is
            used, and the mean over collections decides.
        name: of the expert; default the collection's, or ``generalist``.
        config: see :class:`TrainingConfig`.
        force: keep the expert even if it does not beat the base, and replace one of that name.
        progress: where to report.

    Raises:
        NoGainError: no state beat the base on held-out queries and ``force`` is not set.
        CollectionError: there is no train split, or too few queries to hold some out.
        ExpertError: the name cannot be used or is taken.
    """
    config, progress = config or TrainingConfig(), progress or Silent()
    collections = [collection] if isinstance(collection, Collection) else list(collection)
    if not collections:
        raise CollectionError("Give at least one collection to train on.")
    name = check_expert_name(name or (collections[0].name if len(collections) == 1 else "generalist"))
    if name in model.experts and not force:
        raise ExpertError(
            f"The model already has an expert '{name}'. Remove it first, choose another name (--name), or "
            "pass force=True (--force) to replace it."
        )
    for source in collections:
        source.train_and_held_out()  # a missing split should be known before anything is embedded
    documents = [model.embed_collection(source, progress=progress) for source in collections]
    started = time.perf_counter()
    budget = HIDDEN_BUDGET // len(collections)
    parts = [
        Part.prepare(model, source, vectors, config, budget)
        for source, vectors in zip(collections, documents, strict=True)
    ]
    run = _Training(model, parts, config, name)
    report, adapter = run.run(progress, started)
    if adapter is None or report.info.gain <= 0:
        message = (
            f"The expert '{name}' did not beat the base on {report.info.held_out} held-out queries of "
            f"'{report.info.collection}' (nDCG@10 {report.info.expert_ndcg:.4f} against "
            f"{report.info.base_ndcg:.4f}), so it was not added. Give it more or cleaner queries, or pass "
            "force=True (--force) to keep it."
        )
        if not force:
            run.forget()
            raise NoGainError(message)
    model.add_expert(name, adapter or run.adapter.detached(), report.info, replace=force)
    run.forget()
    return report


class _Training:
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
