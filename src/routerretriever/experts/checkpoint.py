"""What an interrupted training leaves behind, so that running it again continues it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from routerretriever.data.collection import Collection
from routerretriever.data.splits import Split
from routerretriever.encoder.protocol import RoutedModel
from routerretriever.experts.held_out import HeldOutScores
from routerretriever.experts.training_config import TrainingConfig
from routerretriever.lora.adapter import Adapter
from routerretriever.storage.cache_directory import cache_directory

_FORMAT = 5  # of the file; part of the key, so that another format is never read


@dataclass(slots=True, kw_only=True)
class Choice:
    """What some of the held-out queries choose so far.

    Attributes:
        best, scores, step: the best adapter, a copy; ``None`` while nothing beats the
            base.
        without_improvement: evaluations since then.
    """

    best: Adapter | None = None
    scores: HeldOutScores | None = None
    step: int = 0
    without_improvement: int = 0


@dataclass(slots=True, kw_only=True)
class TrainingState:
    """Everything that decides the rest of a training.

    Attributes:
        adapter: its factors are trained in place.
        average: of the factors over the last steps; ``None`` where none is made.
        optimizer: of the factors.
        step: optimiser steps so far.
        choices: what each part of the held-out queries would choose.
        history: mean nDCG@10 at every evaluation, by the queries that choose the
            expert.
        resumed: whether an interrupted training was continued.
    """

    adapter: Adapter
    average: Adapter | None = None
    optimizer: torch.optim.Optimizer
    step: int = 0
    choices: list[Choice]
    history: list[float] = field(default_factory=list)
    resumed: bool = False

    @property
    def candidate(self) -> Adapter:
        """What may become the expert after this step: the average, or the factors."""
        return self.average or self.adapter


class Checkpoint:
    """A training's state on disk, replaced as a whole."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, key: str, n_choices: int) -> Checkpoint:
        """Return the checkpoint of one training; another training has another one.

        Args:
            key: what :func:`training_key` returns.
            n_choices: parts of the held-out queries that each choose an adapter.
        """
        return cls(cache_directory() / "training" / f"{key}-{n_choices}.pt")

    def save(self, state: TrainingState) -> None:
        """Write the state."""
        average = state.average and state.average.detached()
        content = {
            "factors": state.adapter.detached().factors,
            "average": average and average.factors,
            "optimizer": state.optimizer.state_dict(),
            "choices": list(map(_saved, state.choices)),
            "step": state.step,
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

        _copy(content["factors"], state.adapter)
        if state.average is not None:
            _copy(content["average"], state.average)
        state.optimizer.load_state_dict(content["optimizer"])
        for choice, saved in zip(state.choices, content["choices"], strict=True):
            _restore(choice, saved, state.adapter.scaling)
        state.step = content["step"]
        state.history, state.resumed = list(content["history"]), True

    def delete(self) -> None:
        """Delete the file, if there is one."""
        self.path.unlink(missing_ok=True)


def _copy(saved: Mapping[str, tuple[Tensor, Tensor]], adapter: Adapter) -> None:
    """Copy saved factors into those of an adapter."""
    with torch.no_grad():
        for name, factors in saved.items():
            for own, wanted in zip(adapter.factors[name], factors, strict=True):
                own.copy_(wanted)


def _saved(choice: Choice) -> dict[str, Any]:
    content: dict[str, Any] = {"counts": [choice.step, choice.without_improvement]}
    if choice.best is not None and choice.scores is not None:
        content["factors"] = choice.best.factors
        content["scores"] = list(map(torch.from_numpy, choice.scores.by_collection))
    return content


def _restore(choice: Choice, content: Mapping[str, Any], scaling: float) -> None:
    choice.step, choice.without_improvement = content["counts"]
    if "factors" in content:
        choice.best = Adapter(content["factors"], scaling)
        choice.scores = HeldOutScores(tuple(values.numpy() for values in content["scores"]))


def training_key(
    model: RoutedModel, collections: Sequence[Collection], config: TrainingConfig, name: str
) -> str:
    """Return a hash of everything that decides what a training ends with."""
    encoder = model.encoder
    settings = [
        _FORMAT,
        model.identity,
        encoder.branch_layer,
        model.query_prompt,
        model.similarity_fn_name,
        name,
        asdict(config),
        config.computes_in_bf16(model.device),
    ]
    digest = hashlib.blake2b(digest_size=16)
    _add(digest, settings)
    for collection in collections:
        train, held_out = collection.train_and_held_out()
        _add(digest, [collection.name, collection.ignore_identical_ids])
        for split in (train.sample(config.max_queries, config.seed), held_out):
            _add(digest, _judged(split, collection))
        for document in collection.documents:
            _add(digest, [document.id, document.content])
        if not collection.cut_off and not all(map(model.reads_whole, collection.documents)):
            _add(digest, "passages")
    return digest.hexdigest()


def _judged(split: Split, collection: Collection) -> list[Any]:
    """Return the queries of a split in their order, each with its judgements and how it was made."""
    judged: list[Any] = []
    for query_id, text in split.queries.items():
        grades = sorted(split.qrels[query_id].items())
        judged.append([query_id, text, grades, collection.generated.get(query_id)])
    return judged


def _add(digest: Any, content: Any) -> None:
    digest.update(json.dumps(content, default=str).encode("utf-8", "surrogatepass"))
