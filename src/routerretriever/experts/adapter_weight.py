"""Choose by how much the delta of a trained expert is scaled down."""

from __future__ import annotations

from collections.abc import Callable

from routerretriever.experts.held_out import HeldOutScores, Rows
from routerretriever.experts.training_config import TrainingConfig

KEPT_GAIN = 0.98
"""Part of the held-out gain that a smaller adapter weight must keep."""


def smallest_weight(
    base: HeldOutScores,
    scores_at: Callable[[float], HeldOutScores],
    selects: Rows,
    config: TrainingConfig,
    *,
    only_crops: bool,
) -> float:
    """Return the smallest weight of a trained adapter that keeps its gain.

    Args:
        base: scores of the base.
        scores_at: measures the adapter at a weight; 1 is as it was trained.
        selects: the held-out queries that choose.
        config: says which weights are tried.
        only_crops: whether all training queries are crops of passages. Then there is a largest
            weight, which is taken even if it does not keep the gain.
    """
    gain = scores_at(1.0).mean(selects) - base.mean(selects)
    least = base.mean(selects) + KEPT_GAIN * gain
    largest = config.crops_adapter_weight if only_crops else 1.0

    tried = {weight for weight in config.adapter_weights if weight < largest}
    if largest < 1.0:
        tried.add(largest)
    for weight in sorted(tried):
        if weight == largest or scores_at(weight).mean(selects) >= least:
            return weight
    return 1.0
