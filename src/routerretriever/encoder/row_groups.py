"""Divide the rows of a batch into groups that the upper layers can treat alike."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from routerretriever.encoder.row_weights import BASE_COLUMN, MERGED_COLUMN, SHARED, leading_columns
from routerretriever.expert_state import ExpertState
from routerretriever.lora.adapter import Adapter
from routerretriever.lora.layers import FusedPlan, GatheredPlan, Plan, SlicedPlan

MIN_FUSED_TOKENS = 320
"""A group with fewer tokens is cheaper with gathered factors than with fused weights of its own."""

MIN_SLICE_ROWS = 3
"""Small groups of at least this many rows on average are cheaper one after another than with
factors for every row."""

MAX_FUSED_PLANS = 16
"""Plans whose fused weights are kept at a time."""


class RowGroup(NamedTuple):
    """Rows of a batch (n,), and the plan under which they run; ``None`` is the plain base."""

    rows: Tensor
    plan: Plan | None


class FusedPlans:
    """The plans with fused weights that were used last; the least recently used is dropped."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._plans: OrderedDict[tuple[tuple[int, ...], float], FusedPlan] = OrderedDict()

    def __reduce__(self) -> tuple[type[FusedPlans], tuple[()]]:
        return FusedPlans, ()  # a copy makes its weights itself

    def mean(self, adapters: Sequence[Adapter], weight: float = 1.0) -> FusedPlan:
        """Return the plan that applies ``weight`` times the mean delta of some adapters."""
        # A kept plan holds its adapters, so that nothing else can get their ids.
        key = tuple(map(id, adapters)), weight
        with self._lock:
            plan = self._plans.setdefault(key, FusedPlan(tuple(adapters), weight))
            self._plans.move_to_end(key)
            if len(self._plans) > MAX_FUSED_PLANS:
                self._plans.popitem(last=False)
        return plan

    def candidate(self, state: ExpertState, column: int, weight: float = 1.0) -> FusedPlan | None:
        """Return the plan of a routing candidate; ``None`` for the base."""
        if column == BASE_COLUMN or not state.experts:
            return None
        if column == MERGED_COLUMN:
            return self.mean(tuple(state.experts.values()), weight)
        return self.mean((state.experts[state.candidates[column]],), weight)


def mixed_plan(state: ExpertState, weights: Tensor) -> GatheredPlan:
    """Return the plan that gives each row the weighted sum of experts' deltas.

    Args:
        state: the experts.
        weights: of each expert for each row (n, E).
    """
    most = int((weights > 0).sum(dim=1).max())
    top = weights.topk(max(1, most), dim=1)
    experts = list(state.experts.values())
    if bool((top.values == 1.0).all()):
        return GatheredPlan.of(experts, top.indices)
    return GatheredPlan.of(experts, top.indices, top.values)


def row_groups(
    weights: NDArray[np.float32],
    tokens: int,
    state: ExpertState,
    plans: FusedPlans,
    device: torch.device,
) -> list[RowGroup]:
    """Divide rows: base, merged and large groups get fused weights, the others run together.

    Args:
        weights: of each candidate for each row (n, 2 + E).
        tokens: of each row, padding included.
        state: the experts that the columns stand for.
        plans: where fused weights are kept.
        device: of the rows in the groups.
    """
    columns = leading_columns(weights)
    on_device = partial(torch.as_tensor, device=device)

    first = int(columns[0]) if len(columns) else BASE_COLUMN
    if first not in (SHARED, MERGED_COLUMN) and (columns == first).all():
        everything = np.arange(len(columns))
        return [RowGroup(on_device(everything), plans.candidate(state, first))]

    groups: list[RowGroup] = []
    small: dict[int, NDArray[Any]] = {}
    gathered: list[NDArray[Any]] = []
    for column in np.unique(columns).tolist():
        rows = np.flatnonzero(columns == column)
        if column == MERGED_COLUMN:
            applied = weights[rows, MERGED_COLUMN]
            for weight in np.unique(applied).tolist():
                plan = plans.candidate(state, MERGED_COLUMN, weight)
                groups.append(RowGroup(on_device(rows[applied == weight]), plan))
        elif column == SHARED:
            gathered.append(rows)
        elif column == BASE_COLUMN or len(rows) * tokens >= MIN_FUSED_TOKENS:
            groups.append(RowGroup(on_device(rows), plans.candidate(state, column)))
        else:
            small[column] = rows

    # Small groups run one after another where they are large enough, else all rows together.
    if small and MIN_SLICE_ROWS * len(small) <= sum(map(len, small.values())):
        adapters = tuple(state.experts[state.candidates[column]] for column in small)
        sliced = SlicedPlan(adapters, tuple(map(len, small.values())))
        groups.append(RowGroup(on_device(np.concatenate(list(small.values()))), sliced))
    else:
        gathered += small.values()
    if gathered:
        in_order = np.sort(np.concatenate(gathered))
        mixed = weights[in_order]
        each = mixed[:, MERGED_COLUMN : MERGED_COLUMN + 1] / max(1, len(state.experts))
        of_experts = on_device(mixed[:, 2:] + each)
        groups.append(RowGroup(on_device(in_order), mixed_plan(state, of_experts)))
    return groups


def take_rows(value: Any, rows: Tensor | None, n_rows: int) -> Any:
    """Return the group's rows of an argument that has one entry for each row of the batch."""
    if rows is None:
        return value
    if isinstance(value, tuple):
        return tuple(take_rows(item, rows, n_rows) for item in value)
    by_row = isinstance(value, Tensor) and value.ndim >= 2 and value.shape[0] == n_rows
    if by_row and n_rows > 1:
        return value[rows]
    return value
