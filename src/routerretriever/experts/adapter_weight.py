"""Choose by how much the delta of a trained expert is scaled down."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from routerretriever.experts.held_out import HeldOutScores
from routerretriever.experts.training_config import TrainingConfig
from routerretriever.lora.adapter import Adapter

KEPT_GAIN = 0.98
"""Part of the held-out gain that a smaller adapter weight must keep."""


class WeightedAdapter(NamedTuple):
    """A scaled adapter, the weight it was scaled by, and its held-out scores."""

    adapter: Adapter
    weight: float
    scores: HeldOutScores


def smallest_weight(
    trained: WeightedAdapter,
    base: HeldOutScores,
    evaluate: Callable[[Adapter], HeldOutScores],
    config: TrainingConfig,
    *,
    only_crops: bool,
) -> WeightedAdapter:
    """Return the trained adapter with the smallest weight that keeps its gain.

    Args:
        trained: the adapter as it was trained, with weight 1.
        base: scores of the base.
        evaluate: measures an adapter.
        config: says which weights are tried.
        only_crops: whether all training queries are crops of passages. Then there is a largest
            weight, which is taken even if it does not keep the gain.
    """
    least = base.mean + KEPT_GAIN * (trained.scores.mean - base.mean)
    largest = config.crops_adapter_weight if only_crops else 1.0

    tried = {weight for weight in config.adapter_weights if weight < largest}
    if largest < 1.0:
        tried.add(largest)
    for weight in sorted(tried):
        scaled = trained.adapter.scaled(weight)
        scores = evaluate(scaled)
        if weight == largest or scores.mean >= least:
            return WeightedAdapter(scaled, weight, scores)
    return trained
