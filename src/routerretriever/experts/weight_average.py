"""The moving average of an adapter's factors over the steps of its training."""

from __future__ import annotations

import torch

from routerretriever.lora.adapter import Adapter


def first_average(adapter: Adapter) -> Adapter:
    """Return a copy of the factors, where they are, that no optimiser touches."""
    return adapter.mapped(lambda factor: factor.detach().clone())


def move_average(average: Adapter, adapter: Adapter, step: int, span: float) -> None:
    """Move an average, in place, towards the factors after a step.

    It is the plain mean of all steps until there are as many as it spans, and
    exponential from then on. Otherwise it would long hold on to where training began.

    Args:
        average: of the steps before; step 1 replaces what it was at first.
        adapter: the factors after this step.
        step: number of the step, from 1.
        span: steps that the average spans.
    """
    weight = 1 / max(1.0, min(step, span))
    with torch.no_grad():
        for own, new in zip(average.parameters(), adapter.parameters(), strict=True):
            own.lerp_(new, weight)
