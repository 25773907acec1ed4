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
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from routerretriever.collection import Collection, Split
from routerretriever.embedding_cache import default_directory
from routerretriever.errors import CollectionError, ExpertError, NoGainError
from routerretriever.evaluation import ndcg_at_10
from routerretriever.lora import Adapter
from routerretriever.progress import Progress, Silent
from routerretriever.storage import ExpertInfo, check_expert_name
from routerretriever.vectors import Vectors, as_similarity, top_k

if TYPE_CHECKING:
    from routerretriever.encoder import RoutedEncoder
    from routerretriever.model import RouterRetriever

_HIDDEN_BUDGET = 2**30  # bytes of cached hidden states; beyond it they are computed every step
_ENCODE_BATCH = 64
_POOLED_BATCHES = 32  # batches sorted by length together


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
    seed: int = 0


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
    seconds: float
    history: tuple[float, ...]
    resumed: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self) | {"gain": self.info.gain}


def train_expert(
    model: RouterRetriever,
    collection: Collection,
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
        name: of the expert; default the collection's.
        config: see :class:`TrainingConfig`.
        force: keep the expert even if it does not beat the base, and replace one of that name.
        progress: where to report.

    Raises:
        NoGainError: no state beat the base on held-out queries and ``force`` is not set.
        CollectionError: there is no train split, or too few queries to hold some out.
        ExpertError: the name cannot be used or is taken.
    """
    config, progress = config or TrainingConfig(), progress or Silent()
    name = check_expert_name(name or collection.name)
    if name in model.experts and not force:
        raise ExpertError(
            f"The model already has an expert '{name}'. Remove it first, choose another name (--name), or "
            "pass force=True (--force) to replace it."
        )
    train, held_out = collection.train_and_held_out()
    if len(train) < 2 or len(held_out) < 1:
        raise CollectionError(
            f"'{collection.name}' has {len(train)} train and {len(held_out)} held-out queries: too few to "
            "train on. Some hundred queries are a sensible minimum."
        )
    documents = model.embed_collection(collection, progress=progress)
    run = _Training(model, collection, train, held_out, documents, config, name)
    report, adapter = run.run(progress)
    if adapter is None or report.info.gain <= 0:
        message = (
            f"The expert '{name}' did not beat the base on {len(held_out)} held-out queries of "
            f"'{collection.name}' (nDCG@10 {report.info.expert_ndcg:.4f} against {report.info.base_ndcg:.4f}), "
            "so it was not added. Give it more or cleaner queries, or pass force=True (--force) to keep it."
        )
        if not force:
            run.forget()
            raise NoGainError(message)
    model.add_expert(name, adapter or run.adapter.detached(), report.info, replace=force)
    run.forget()
    return report


@dataclass(frozen=True, slots=True)
class _Encoded:
    """Tokenised queries, unpadded, with their hidden states at the branch layer where they fit."""

    features: list[dict[str, Tensor]]
    hidden: list[Tensor] | None

    def __len__(self) -> int:
        return len(self.features)

    def batch(self, rows: Sequence[int]) -> tuple[dict[str, Any], list[Tensor] | None]:
        """Padded features and the hidden states of some rows."""
        features = {
            key: torch.nn.utils.rnn.pad_sequence([self.features[row][key] for row in rows], batch_first=True)
            for key in self.features[0]
        }
        return features, None if self.hidden is None else [self.hidden[row] for row in rows]

    def batches_by_length(self, size: int) -> Iterator[list[int]]:
        """Row numbers in batches of similar length."""
        order = sorted(range(len(self)), key=lambda row: len(self.features[row]["input_ids"]))
        for start in range(0, len(order), size):
            yield order[start : start + size]


def _encode_queries(encoder: RoutedEncoder, texts: Sequence[str], prompt: str | None) -> _Encoded:
    features: list[dict[str, Tensor]] = [{}] * len(texts)
    hidden: list[Tensor] = [torch.empty(0)] * len(texts)
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    spent = 0
    for start in range(0, len(order), _ENCODE_BATCH):
        rows = order[start : start + _ENCODE_BATCH]
        batch = encoder.tokenized([texts[row] for row in rows], prompt)
        kept = batch["attention_mask"].bool()
        if spent <= _HIDDEN_BUDGET:
            with torch.no_grad():
                states = encoder.hidden_at_branch(batch)
            spent += sum(state.numel() * state.element_size() for state in states)
            for row, state in zip(rows, states, strict=True):
                hidden[row] = state.clone()
        tensors = {key: value for key, value in batch.items() if isinstance(value, Tensor) and value.ndim == 2}
        for number, row in enumerate(rows):
            # Padding is dropped; pad_sequence's zeros stand under a zero attention mask later.
            features[row] = {key: value[number][kept[number]] for key, value in tensors.items()}
    return _Encoded(features, hidden if spent <= _HIDDEN_BUDGET else None)


class _Training:
    """One training run: its data, its state, its checkpoint."""

    def __init__(
        self,
        model: RouterRetriever,
        collection: Collection,
        train: Split,
        held_out: Split,
        documents: Vectors,
        config: TrainingConfig,
        name: str,
    ) -> None:
        self.encoder, self.collection, self.config, self.name = model.encoder.eval(), collection, config, name
        self.train, self.held_out, self.documents = train, held_out, documents
        self.similarity = model.similarity_fn_name
        self.prompt = model.query_prompt
        self.negatives = _Negatives(model, collection, train, documents, config)
        generator = torch.Generator().manual_seed(config.seed)
        self.adapter = Adapter.initial(self._target_layers(), config.rank, config.alpha, generator)
        self.optimizer = torch.optim.AdamW(
            self.adapter.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.steps_per_epoch = math.ceil(len(train) / config.batch_size)
        self.total_steps = self.steps_per_epoch * config.epochs
        self.step, self.stale, self.best_step = 0, 0, 0
        self.history: list[float] = []
        self.best: Adapter | None = None
        self.best_values: NDArray[np.float64] | None = None
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
        content: list[Any] = [
            self.encoder.fingerprint,
            self.name,
            asdict(self.config),
            sorted(self.train.queries.items()),
        ]
        content += [self.encoder.branch_layer, len(self.documents), sorted(self.train.qrels)]
        return hashlib.blake2b(json.dumps(content, default=str).encode(), digest_size=16).hexdigest()

    def run(self, progress: Progress) -> tuple[TrainingReport, Adapter | None]:
        started = time.perf_counter()
        queries = _encode_queries(self.encoder, list(self.train.queries.values()), self.prompt)
        probes = _encode_queries(self.encoder, list(self.held_out.queries.values()), self.prompt)
        untrained = replace(self.adapter, scaling=0.0)
        base_values = self._evaluate(untrained, probes)
        self._resume(float(base_values.mean()))
        interval = max(1, self.steps_per_epoch // self.config.evaluations)
        with torch.random.fork_rng(), progress.task(f"train {self.name}", self.total_steps) as task:
            task.advance(self.step)
            while self.step < self.total_steps and self.stale < self.config.patience:
                self._one_step(queries)
                task.advance(1, f"held-out nDCG@10 {self._best_score(base_values):.3f}")
                if self.step % interval == 0 or self.step == self.total_steps:
                    self._check_held_out(probes, base_values)
                    self._save_checkpoint()
        best_values = base_values if self.best_values is None else self.best_values
        return self._report(base_values, best_values, time.perf_counter() - started), self.best

    def _best_score(self, base_values: NDArray[np.float64]) -> float:
        return float((base_values if self.best_values is None else self.best_values).mean())

    def _one_step(self, queries: _Encoded) -> None:
        # Seeding every step by its number makes a resumed run repeat the uninterrupted one.
        torch.manual_seed(self.config.seed * 1_000_003 + self.step)
        rows = self._rows_of_step(queries)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * self._schedule()
        features, hidden = queries.batch(rows)
        vectors = self.encoder.encode_with(self.adapter, features, hidden, self.config.dropout)
        targets, positive = self.negatives.candidates(rows)
        scores = as_similarity(vectors, self.similarity) @ targets.T
        loss = ranking_loss(scores / self.config.temperature, positive.to(scores.device))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.step += 1

    def _rows_of_step(self, queries: _Encoded) -> list[int]:
        """The queries of this step: a new order every epoch, decided by the seed alone."""
        epoch, number = divmod(self.step, self.steps_per_epoch)
        generator = torch.Generator().manual_seed(self.config.seed * 7919 + epoch)
        order = torch.randperm(len(queries), generator=generator).tolist()
        size = self.config.batch_size
        if not self.config.in_batch:
            # Negatives do not come from the batch, so queries of like length may share one: less padding.
            pool = size * _POOLED_BATCHES
            order = [
                row
                for start in range(0, len(order), pool)
                for row in sorted(order[start : start + pool], key=lambda row: len(queries.features[row]["input_ids"]))
            ]
            number = int(torch.randperm(self.steps_per_epoch, generator=generator)[number])
        return order[number * size : (number + 1) * size]

    def _schedule(self) -> float:
        warm = max(1, round(self.config.warmup * self.total_steps))
        if self.step < warm:
            return (self.step + 1) / warm
        return (self.total_steps - self.step) / max(1, self.total_steps - warm)

    def _evaluate(self, adapter: Adapter, queries: _Encoded) -> NDArray[np.float64]:
        vectors = torch.empty(len(queries), self.documents.shape[1])
        with torch.no_grad():
            for rows in queries.batches_by_length(_ENCODE_BATCH):
                features, hidden = queries.batch(rows)
                vectors[rows] = self.encoder.encode_with(adapter, features, hidden).float().cpu()
        return ndcg_at_10(vectors.numpy(), self.held_out, self.documents, self.collection, self.similarity)

    def _check_held_out(self, probes: _Encoded, base_values: NDArray[np.float64]) -> None:
        values = self._evaluate(self.adapter, probes)
        self.history.append(float(values.mean()))
        if values.mean() > self._best_score(base_values):
            self.best, self.best_values = self.adapter.detached(), values
            self.best_step, self.stale = self.step, 0
        else:
            self.stale += 1

    def _report(self, base: NDArray[np.float64], best: NDArray[np.float64], seconds: float) -> TrainingReport:
        changed = bool(np.any(best != base))
        p_value = float(stats.ttest_rel(best, base).pvalue) if changed and len(base) > 1 else 1.0
        info = ExpertInfo(
            collection=self.collection.name,
            queries=len(self.train),
            held_out=len(self.held_out),
            base_ndcg=float(base.mean()),
            expert_ndcg=float(best.mean()),
            config=asdict(self.config),
        )
        epochs = math.ceil(self.step / self.steps_per_epoch)
        history = tuple(self.history)
        return TrainingReport(
            self.name, info, p_value, epochs, self.step, self.best_step, seconds, history, self.resumed
        )

    # A checkpoint holds everything that decides the rest of the run.

    def _save_checkpoint(self) -> None:
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.checkpoint.with_suffix(f".{os.getpid()}.tmp")
        state = {
            "factors": self.adapter.detached().factors,
            "optimizer": self.optimizer.state_dict(),
            "best": None if self.best is None else self.best.factors,
            "best_values": None if self.best_values is None else torch.from_numpy(self.best_values),
            "progress": [self.step, self.stale, self.best_step],
            "history": self.history,
        }
        torch.save(state, temporary)
        temporary.replace(self.checkpoint)

    def _resume(self, base_score: float) -> None:
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
            self.best_values = state["best_values"].numpy()
        self.step, self.stale, self.best_step = state["progress"]
        self.history, self.resumed = list(state["history"]), True

    def forget(self) -> None:
        """Delete the checkpoint."""
        Path(self.checkpoint).unlink(missing_ok=True)


def ranking_loss(scores: Tensor, positive: Tensor) -> Tensor:
    """Softmax cross-entropy of every positive against all documents that are not positive.

    Positives of one query do not compete with each other; each weighs the same, and so does each query.
    With one positive this is the usual InfoNCE over the corpus.

    Args:
        scores: similarity over temperature (n, m).
        positive: boolean (n, m), at least one true in every row.
    """
    # Not -inf: a batch may hold nothing but positives, and its gradient has to stay finite.
    others = scores.masked_fill(positive, torch.finfo(scores.dtype).min).logsumexp(dim=1, keepdim=True)
    losses = torch.logaddexp(scores, others) - scores
    return ((losses * positive).sum(dim=1) / positive.sum(dim=1)).mean()


class _Negatives:
    """The documents a batch is ranked against, and which of them are relevant."""

    def __init__(
        self,
        model: RouterRetriever,
        collection: Collection,
        train: Split,
        documents: Vectors,
        config: TrainingConfig,
    ) -> None:
        row = {document_id: index for index, document_id in enumerate(collection.document_ids)}
        self.positives = [
            [row[document_id] for document_id, grade in train.qrels[query_id].items() if grade > 0]
            for query_id in train.queries
        ]
        prepared = as_similarity(torch.from_numpy(documents), model.similarity_fn_name)
        self.documents, self.config = prepared.to(model.device), config
        self.mined: list[list[int]] = []
        if not config.in_batch and len(documents) > config.corpus_limit:
            vectors = model.encode_query(list(train.queries.values()), expert="base")
            found = top_k(vectors, documents, config.hard_negatives + 1, model.similarity_fn_name)
            self.mined = [columns.tolist() for columns in found.columns]

    def candidates(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Document vectors (m, d), ready for a dot product, and a boolean mask of positives (n, m)."""
        if not self.config.in_batch and not self.mined:
            columns = None
            position: Any = range(len(self.documents))
        else:
            columns = self._subset(rows)
            position = {column: index for index, column in enumerate(columns)}
        positive = torch.zeros(len(rows), len(position), dtype=torch.bool)
        for number, row in enumerate(rows):
            positive[number, [position[column] for column in self.positives[row] if column in position]] = True
        return self.documents if columns is None else self.documents[columns], positive

    def _subset(self, rows: Sequence[int]) -> list[int]:
        if self.config.in_batch:
            picks = [self.positives[row][int(torch.randint(len(self.positives[row]), ()))] for row in rows]
            return sorted(set(picks))
        chosen = set(torch.randint(len(self.documents), (self.config.sampled_negatives,)).tolist())
        for row in rows:
            chosen.update(self.positives[row])
            chosen.update(self.mined[row])
        return sorted(chosen)
