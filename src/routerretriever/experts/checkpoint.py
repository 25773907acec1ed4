"""What an interrupted training leaves behind, so that running it again continues it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from routerretriever.data.splits import Split
from routerretriever.encoder.embedding_cache import default_directory
from routerretriever.encoder.protocol import RoutedModel
from routerretriever.experts.held_out import HeldOutScores
from routerretriever.experts.training_config import TrainingConfig
from routerretriever.experts.training_data import TrainingData
from routerretriever.lora.adapter import Adapter

_FORMAT = 2  # of the file; part of the key, so that another format is never read


@dataclass(slots=True, kw_only=True)
class TrainingState:
    """Everything that decides the rest of a training.

    Attributes:
        adapter: its factors are trained in place.
        optimizer: of the factors.
        step: optimiser steps so far.
        best, best_scores, best_step: the best adapter so far, a copy; ``None`` while nothing beats
            the base.
        without_improvement: held-out evaluations since then.
        history: mean held-out nDCG@10 at every evaluation.
        resumed: whether an interrupted training was continued.
    """

    adapter: Adapter
    optimizer: torch.optim.Optimizer
    step: int = 0
    best: Adapter | None = None
    best_scores: HeldOutScores | None = None
    best_step: int = 0
    without_improvement: int = 0
    history: list[float] = field(default_factory=list)
    resumed: bool = False


class Checkpoint:
    """A training's state on disk, replaced as a whole."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(
        cls,
        model: RoutedModel,
        data: Sequence[TrainingData],
        config: TrainingConfig,
        name: str,
    ) -> Checkpoint:
        """Return the checkpoint of one training; another training has another one."""
        return cls(default_directory() / "training" / f"{_key(model, data, config, name)}.pt")

    def save(self, state: TrainingState) -> None:
        """Write the state."""
        best_scores = state.best_scores
        content = {
            "factors": state.adapter.detached().factors,
            "optimizer": state.optimizer.state_dict(),
            "best": None if state.best is None else state.best.factors,
            "best_scores": []
            if best_scores is None
            else list(map(torch.from_numpy, best_scores.by_collection)),
            "counts": [state.step, state.without_improvement, state.best_step],
            "history": state.history,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(f".{os.getpid()}.tmp")
        torch.save(content, temporary)
        temporary.replace(self.path)

    def load_into(self, state: TrainingState) -> None:
        """Continue where the file ends, if there is one."""
        if not self.path.exists():
            return
        try:
            content = torch.load(self.path, weights_only=True)
        except Exception:  # a damaged checkpoint only costs the work it held
            self.delete()
            return

        with torch.no_grad():
            for name, factors in content["factors"].items():
                for own, saved in zip(state.adapter.factors[name], factors, strict=True):
                    own.copy_(saved)
        state.optimizer.load_state_dict(content["optimizer"])
        if content["best"] is not None:
            state.best = Adapter(content["best"], state.adapter.scaling)
            state.best_scores = HeldOutScores(tuple(values.numpy() for values in content["best_scores"]))
        state.step, state.without_improvement, state.best_step = content["counts"]
        state.history, state.resumed = list(content["history"]), True

    def delete(self) -> None:
        """Delete the file, if there is one."""
        self.path.unlink(missing_ok=True)


def _key(model: RoutedModel, data: Sequence[TrainingData], config: TrainingConfig, name: str) -> str:
    """Return a hash of everything that decides what a training ends with."""
    encoder = model.encoder
    settings = [
        _FORMAT,
        model.fingerprint,
        encoder.branch_layer,
        model.query_prompt,
        model.similarity_fn_name,
        name,
        asdict(config),
        config.computes_in_bf16(model.device),
    ]
    digest = hashlib.blake2b(digest_size=16)
    _add(digest, settings)
    for part in data:
        collection = part.collection
        _add(digest, [collection.name, collection.ignore_identical_ids, part.only_crops])
        for split in (part.train, part.held_out):
            _add(digest, _judged(split))
        for document in collection.documents:
            _add(digest, [document.id, document.content])
    return digest.hexdigest()


def _judged(split: Split) -> list[Any]:
    """Return the queries of a split in their order, each with its judgements."""
    return [
        [query_id, text, sorted(split.qrels[query_id].items())] for query_id, text in split.queries.items()
    ]


def _add(digest: Any, content: Any) -> None:
    digest.update(json.dumps(content, default=str).encode("utf-8", "surrogatepass"))
