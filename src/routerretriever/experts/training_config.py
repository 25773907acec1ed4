"""How an expert is trained."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from typing import Annotated, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from routerretriever.errors import ExpertError
from routerretriever.kernels.quantization import has_bfloat16
from routerretriever.validation import named_errors

Count = Annotated[int, Field(ge=1)]
AtLeastZero = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
AboveZero = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
AdapterWeight = Annotated[float, Field(gt=0.0, le=1.0)]


ANCHOR_WEIGHT = 10.0
"""Weight of the anchors of LoRA factors. It was chosen on held-out queries of three collections."""

ANCHORED_QUERIES = 1000
"""Most training queries that anchors have this weight for: the number it was chosen at."""


class TrainedKinds(StrEnum):
    """Which kinds of expert are trained, of which the best is kept."""

    LORA = "lora"
    MAP = "map"
    BOTH = "both"
    AUTO = "auto"


@dataclass(frozen=True, slots=True, kw_only=True, config=ConfigDict(extra="forbid"))
class TrainingConfig:
    """How an expert is trained.

    Attributes:
        kind: ``lora`` changes layers of the base, ``map`` the finished vector alone (``q' = q + W q``),
            ``both`` the layers and then the vector; ``auto`` trains all three, and the held-out
            queries that choose the expert decide.
        rank, alpha, dropout: LoRA's r, α and dropout.
        targets: last parts of the names of the layers to adapt; ``None`` is every linear layer.
        learning_rate, weight_decay: of AdamW.
        anchor: weight of the anchors in the loss, 0 for none: some hundred titles, sentences,
            phrases and keywords of the collection's documents, made without labels, whose vectors
            (in every step, of some of them: the mean of 1 - cosine to the base's) the expert should
            leave as they are. ``None`` is ``ANCHOR_WEIGHT`` for layers, and for more than
            ``ANCHORED_QUERIES`` in inverse proportion less, so that anchors weigh as much in an epoch
            of many queries as in one of few. It is 0 for maps, which cannot tell such texts from
            queries: ``benchmarks/styles.py``. Collections with queries that are crops or titles of
            documents have no anchors, since they are trained on what anchors would hold.
        warmup: part of all steps over which the learning rate rises linearly, before it falls
            linearly.
        batch_size: queries in a step.
        epochs: most passes over the queries; early stopping may end sooner.
        temperature: similarities are divided by it before the softmax.
        in_batch: softmax over the batch's own positives only (the paper's setting).
        corpus_limit: the softmax runs over the whole corpus up to this many documents; beyond it
            over the batch's positives, ``hard_negatives`` mined for each query with the base, and
            a random sample of ``sampled_negatives``.
        hard_negatives, sampled_negatives: documents, see ``corpus_limit``.
        evaluations: held-out evaluations in an epoch.
        patience: evaluations without improvement before training stops.
        adapter_weights: after training the LoRA delta is scaled by the smallest of
            these that keeps ``KEPT_GAIN`` of the held-out gain. A smaller step away
            from the base costs next to nothing where the expert belongs and halves the
            harm elsewhere (as in WiSE-FT, arXiv 2109.01903).
        crops_adapter_weight: the largest weight where all queries are crops of
            passages. Held-out queries are crops there, too, and do not show where the
            expert falls behind on true ones: with more, it fell below the base on two
            of four collections' true held-out queries. Titles, and a mixture, need no
            such limit.
        precision: ``bf16`` multiplies by the frozen weights in bfloat16 while learning,
            ``fp32`` keeps the base's precision, ``auto`` is ``bf16`` if the processor
            has instructions for it. Evaluations always keep the base's precision.
        map_learning_rate, map_batch_size, map_epochs, map_temperature: of a map, which
            is held against the held-out queries once an epoch. They were chosen on
            held-out queries of two collections.
        map_averaged_epochs: what is held against the held-out queries, and may become
            the expert, is the exponential moving average of a map's matrix over about so
            many epochs; with 0 it is the matrix after a single step. LoRA factors are not
            averaged: it gains nothing there.
        max_queries: train on at most this many queries of a collection, chosen by ``seed``.
        seed: of everything random.

    Raises:
        ExpertError: a field is unknown, or its value is not possible.
    """

    kind: TrainedKinds = TrainedKinds.LORA
    rank: Count = 8
    alpha: AboveZero = 32.0
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    targets: tuple[str, ...] | None = None
    learning_rate: AtLeastZero = 1e-3
    weight_decay: AtLeastZero = 0.0
    anchor: AtLeastZero | None = None
    warmup: Fraction = 0.1
    batch_size: Count = 32
    epochs: Count = 8
    temperature: AboveZero = 0.03
    in_batch: bool = False
    corpus_limit: Annotated[int, Field(ge=0)] = 200_000
    hard_negatives: Annotated[int, Field(ge=0)] = 32
    sampled_negatives: Annotated[int, Field(ge=0)] = 8192
    evaluations: Count = 2
    patience: Count = 6
    adapter_weights: tuple[AdapterWeight, ...] = (0.5, 0.625, 0.75, 0.875, 1.0)
    crops_adapter_weight: AdapterWeight = 0.5
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    map_learning_rate: AtLeastZero = 1e-3
    map_batch_size: Count = 64
    map_epochs: Count = 30
    map_temperature: AboveZero = 0.05
    map_averaged_epochs: AtLeastZero = 1.0
    max_queries: Annotated[int, Field(ge=2)] | None = None
    seed: int = 0

    _named = named_errors(ExpertError)

    def for_map(self) -> TrainingConfig:
        """Return how a map is trained by the same loop."""
        return replace(
            self,
            kind=TrainedKinds.MAP,
            learning_rate=self.map_learning_rate,
            temperature=self.map_temperature,
            batch_size=self.map_batch_size,
            epochs=self.map_epochs,
            evaluations=1,
        )

    @property
    def has_anchors(self) -> bool:
        """Whether texts of documents are held in this training."""
        return self.anchor_weight(ANCHORED_QUERIES) > 0

    def anchor_weight(self, queries: int) -> float:
        """Return the weight of the anchors in the loss of this training.

        Args:
            queries: of the collection, that are trained on.
        """
        if self.anchor is not None:
            return self.anchor
        if self.kind == TrainedKinds.MAP:
            return 0.0
        return ANCHOR_WEIGHT * min(1.0, ANCHORED_QUERIES / queries)

    @property
    def averaged_epochs(self) -> float:
        """Epochs over which the weights of this training are averaged; 0 is not at all."""
        return self.map_averaged_epochs if self.kind == TrainedKinds.MAP else 0.0

    def computes_in_bf16(self, device: torch.device) -> bool:
        """Return whether products with the frozen weights are computed in bfloat16 on a device."""
        if self.precision == "auto":
            return has_bfloat16(device)
        return self.precision == "bf16"


class Preset(StrEnum):
    """Settings with a name."""

    DEFAULT = "default"
    PAPER = "paper"


PRESETS = {
    Preset.DEFAULT: TrainingConfig(),
    # arXiv 2409.02685, section 4; temperature and dropout from the official code.
    Preset.PAPER: TrainingConfig(
        kind=TrainedKinds.LORA,
        dropout=0.1,
        temperature=0.05,
        targets=("query", "value", "q", "v", "q_proj", "v_proj", "Wqkv"),
        learning_rate=1e-4,
        batch_size=256,
        epochs=500,
        anchor=0.0,
        in_batch=True,
        evaluations=1,
        patience=5,
        adapter_weights=(1.0,),
        crops_adapter_weight=1.0,
        seed=10,
    ),
}
