"""Combine several experts into one."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from routerretriever.errors import ExpertError
from routerretriever.lora.arithmetic import CombinedAdapter, combine_adapters
from routerretriever.lora.expert_info import ExpertInfo
from routerretriever.model import RouterRetriever


def merge_experts(
    model: RouterRetriever,
    names: Sequence[str],
    out: str,
    *,
    rank: int | None = None,
    weights: Sequence[float] | None = None,
) -> CombinedAdapter:
    """Add a combined expert to a model: the weighted sum of some of its experts, at a lower rank.

    The combined expert is not measured yet. Its experts stay.

    Args:
        model: holds the experts.
        names: at least two of them.
        out: name of the combined expert.
        rank: of the combined expert; default in each layer the largest among them.
        weights: one for each expert; default 1 for each, which gives the sum. A half for each of
            two gives their mean.

    Raises:
        ExpertError: there is no such expert, the name is taken, or rank or weights do not fit.
        SilentExpertError: the sum is zero.
    """
    if len(names) < 2:
        raise ExpertError("Name at least two experts to combine.")
    adapters = [model.state.expert(name) for name in names]
    used = [1.0] * len(names) if weights is None else [float(weight) for weight in weights]
    if len(used) != len(names) or not all(map(math.isfinite, used)):
        raise ExpertError(f"Give one finite weight for each of the {len(names)} experts, as in 0.5,0.5.")

    combined = combine_adapters(adapters, used, rank)
    config = {
        "combined": dict(zip(names, used, strict=True)),
        "rank": combined.rank,
        "kept_norm": combined.kept,
    }
    infos = [model.experts[name] for name in names]
    generated: Counter[str] = Counter()
    for info in infos:
        generated.update(info.generated)
    info = ExpertInfo(
        collection=", ".join(dict.fromkeys(info.collection for info in infos if info.collection)),
        queries=sum(info.queries for info in infos),
        config=config,
        generated=dict(generated),
        source=", ".join(dict.fromkeys(info.source for info in infos if info.source)),
        held_out_generated=0,
    )
    model.add_expert(out, combined.adapter, info)
    return combined
