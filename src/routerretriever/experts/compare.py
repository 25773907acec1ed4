"""Compare two experts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from routerretriever.encoder.protocol import RoutedModel
from routerretriever.errors import FingerprintError
from routerretriever.lora.arithmetic import LayerDiff, cosine, inner_product, layer_diff, norm

_FORMER_NAMES = {
    "strengths": "adapter_weights",
    "crops_strength": "crops_adapter_weight",
    "merged": "combined",
}
"""Hyper-parameters that experts of the first version have under other names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertDiff:
    """Two experts side by side.

    Attributes:
        a, b: their names.
        same: whether the LoRA deltas are equal, factor by factor.
        norm_a, norm_b, cosine: of the whole deltas, all layers as one vector.
        layers: name → the same for every layer that one of the experts changes.
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
        """Return plain data for JSON."""
        return asdict(self)


def diff_experts(model: RoutedModel, a: str, b: str, other: RoutedModel | None = None) -> ExpertDiff:
    """Compare expert ``a`` of a model with its expert ``b``, or with expert ``b`` of another one of the same base.

    Raises:
        ExpertError: there is no such expert.
        FingerprintError: the other model has another base.
    """
    other = other or model
    if other.encoder.fingerprint != model.encoder.fingerprint:
        raise FingerprintError(
            f"The two models have different bases ('{model.encoder.base.id}' and '{other.encoder.base.id}'), so their "
            "experts' deltas cannot be compared. Compare experts of the same base."
        )
    first, second = model.state.expert(a), other.state.expert(b)
    info_a, info_b = model.experts[a], other.experts[b]
    gains_a, gains_b = _mean_gains(model, a), _mean_gains(other, b)
    total_a, total_b = norm(first), norm(second)
    cards = (asdict(info_a), asdict(info_b))
    for card, info in zip(cards, (info_a, info_b), strict=True):
        del card["training"], card["trained_on_data"]  # hashes say nothing to people
        del card["other_styles"]
        card["gain_on_other_styles"] = info.gain_on_other_styles
    config_a, config_b = (_present_names(card.pop("config")) for card in cards)
    return ExpertDiff(
        a=a,
        b=b,
        same=first.fingerprint == second.fingerprint,
        norm_a=total_a,
        norm_b=total_b,
        cosine=cosine(inner_product(first, second), total_a, total_b),
        layers={name: layer_diff(first, second, name) for name in {**first.factors, **second.factors}},
        cards=_differing(*cards),
        config=_differing(config_a, config_b),
        gains={name: (gains_a.get(name), gains_b.get(name)) for name in {**gains_a, **gains_b}},
    )


def _mean_gains(model: RoutedModel, name: str) -> dict[str, float]:
    library = model.library
    if library is None:
        return {}
    column = library.experts.index(name)
    means = {collection: float(values[column]) for collection, values in library.mean_gains().items()}
    return {collection: mean for collection, mean in means.items() if not math.isnan(mean)}


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {key: (a.get(key), b.get(key)) for key in {**a, **b} if a.get(key) != b.get(key)}


def _present_names(config: Mapping[str, Any]) -> dict[str, Any]:
    return {_FORMER_NAMES.get(name, name): value for name, value in config.items()}
