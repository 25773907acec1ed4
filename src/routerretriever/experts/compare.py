"""Compare two experts, and combine several into one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from routerretriever.errors import ExpertError, FingerprintError
from routerretriever.lora.arithmetic import (
    CombinedAdapter,
    LayerDiff,
    combine_adapters,
    cosine,
    inner_product,
    layer_diff,
    norm,
)
from routerretriever.lora.expert_info import ExpertInfo

if TYPE_CHECKING:
    from routerretriever.model import RouterRetriever


@dataclass(frozen=True, slots=True)
class ExpertDiff:
    """Two experts side by side.

    Attributes:
        a, b: their names.
        same: the updates are equal, factor by factor.
        norm_a, norm_b, cosine: of the whole updates, all layers as one vector.
        layers: name → the same for every layer that one of them changes.
        cards: field of the card → the two values, where they differ.
        config: hyper-parameter → the two values, where they differ.
        gains: collection → mean measured gains of the two in nDCG@10; ``None`` where not measured.
    """

    a: str
    b: str
    same: bool
    norm_a: float
    norm_b: float
    cosine: float
    layers: Mapping[str, LayerDiff]
    cards: Mapping[str, tuple[Any, Any]]
    config: Mapping[str, tuple[Any, Any]]
    gains: Mapping[str, tuple[float | None, float | None]]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def diff_experts(model: RouterRetriever, a: str, b: str, other: RouterRetriever | None = None) -> ExpertDiff:
    """Compare expert ``a`` of a model with its expert ``b``, or with expert ``b`` of another one of the same base.

    Raises:
        ExpertError: there is no such expert.
        FingerprintError: the other model has another base.
    """
    other = other or model
    if other.encoder.fingerprint != model.encoder.fingerprint:
        raise FingerprintError(
            f"The two models have different bases ('{model.encoder.base.id}' and '{other.encoder.base.id}'), so their "
            "experts' updates cannot be compared. Compare experts of the same base."
        )
    first, second = model.state.expert(a), other.state.expert(b)
    info_a, info_b = model.experts[a], other.experts[b]
    gains_a, gains_b = _mean_gains(model, a), _mean_gains(other, b)
    total_a, total_b = norm(first), norm(second)
    cards = (asdict(info_a), asdict(info_b))
    config_a, config_b = cards[0].pop("config"), cards[1].pop("config")
    return ExpertDiff(
        a,
        b,
        first.fingerprint == second.fingerprint,
        total_a,
        total_b,
        cosine(inner_product(first, second), total_a, total_b),
        {name: layer_diff(first, second, name) for name in {**first.factors, **second.factors}},
        _differing(*cards),
        _differing(config_a, config_b),
        {name: (gains_a.get(name), gains_b.get(name)) for name in {**gains_a, **gains_b}},
    )


def merge_experts(
    model: RouterRetriever,
    names: Sequence[str],
    out: str,
    *,
    rank: int | None = None,
    weights: Sequence[float] | None = None,
) -> CombinedAdapter:
    """Add the rank-reduced sum of some experts to a model as a new expert, not measured yet.

    Args:
        model: holds the experts; they stay.
        names: at least two of them.
        out: name of the new one.
        rank: of the result; default the largest among them.
        weights: one an expert; default 1 for each, so that the result is the sum. A half for each of two is their mean.

    Raises:
        ExpertError: there is no such expert, the name is taken, or rank or weights do not fit.
        SilentExpertError: the sum is zero.
    """
    if len(names) < 2:
        raise ExpertError("Name at least two experts to merge.")
    adapters = [model.state.expert(name) for name in names]
    given = [1.0] * len(names) if weights is None else [float(weight) for weight in weights]
    if len(given) != len(names) or not all(math.isfinite(weight) for weight in given):
        raise ExpertError(f"Give one finite weight for each of the {len(names)} experts, as in 0.5,0.5.")
    rank = max(adapter.rank for adapter in adapters) if rank is None else rank
    combined = combine_adapters(adapters, given, rank)
    infos = [model.experts[name] for name in names]
    generated: dict[str, int] = {}
    for info in infos:
        for way, count in info.generated.items():
            generated[way] = generated.get(way, 0) + count
    info = ExpertInfo(
        collection=", ".join(dict.fromkeys(info.collection for info in infos if info.collection)),
        queries=sum(info.queries for info in infos),
        config={"merged": dict(zip(names, given, strict=True)), "rank": combined.rank, "kept_norm": combined.kept},
        generated=generated,
        source=", ".join(dict.fromkeys(info.source for info in infos if info.source)),
        held_out_generated=0,
    )
    model.add_expert(out, combined.adapter, info)
    return combined


def _mean_gains(model: RouterRetriever, name: str) -> dict[str, float]:
    library = model.library
    if library is None:
        return {}
    column = library.experts.index(name)
    means = {collection: float(values[column]) for collection, values in library.mean_gains().items()}
    return {collection: mean for collection, mean in means.items() if not math.isnan(mean)}


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {key: (a.get(key), b.get(key)) for key in {**a, **b} if a.get(key) != b.get(key)}
