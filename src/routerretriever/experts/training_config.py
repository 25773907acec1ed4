"""How an expert is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from routerretriever.kernels.quantization import has_bfloat16

if TYPE_CHECKING:
    pass


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
