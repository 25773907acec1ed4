"""Gains without the optimism of queries that chose the expert."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from routerretriever.data.collection import Collection
from routerretriever.data.splits import Split, is_measured_on
from routerretriever.lora.expert_info import ExpertInfo, Selection

Gains = NDArray[np.float32]


def unselected_gains(
    gains: Gains, infos: Iterable[ExpertInfo], collection: Collection, split: Split
) -> Gains:
    """Return what pilots may say of the experts: gains (n, E) that no choice made larger.

    An expert's gains on the collections of others are as they are: nothing was chosen
    by them. On its own collection, a query that chose it says nothing (NaN), so the
    mean is that of the queries that measured it. Where the choice was cross-fitted, all
    queries chose it, and every gain is lowered by the mean optimism that its training
    measured. Experts without a record of how they were chosen stay as they are.

    Args:
        gains: as measured (n, E).
        infos: of the experts, in the order of the columns.
        collection: of the queries.
        split: the n queries.
    """
    own = gains.copy()
    chose = ~np.array([is_measured_on(key) for key in collection.division_keys(split)], bool)
    for column, info in enumerate(infos):
        if collection.name not in info.collection.split(", "):
            continue
        if info.selection == Selection.SPLIT and not chose.all():
            own[chose, column] = np.nan
        elif info.selection == Selection.CROSS_FIT:
            own[:, column] -= info.optimism
    return own
