"""Arithmetic with the experts' updates: how alike two are, and their sum at a lower rank.

An update changes a weight by ``ΔW = scaling · B A``. Everything here works on the factors, never on ΔW itself:
``⟨B₁A₁, B₂A₂⟩ = Σ (B₁ᵀB₂) ∘ (A₁A₂ᵀ)``, and the singular values of a sum of updates are those of a small matrix between
two orthonormal bases.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from routerretriever.errors import ExpertError, FingerprintError
from routerretriever.lora import Adapter
from routerretriever.storage import ExpertInfo

if TYPE_CHECKING:
    from routerretriever.model import RouterRetriever


@dataclass(frozen=True, slots=True)
class LayerDiff:
    """The updates of one layer by two experts.

    Attributes:
        norm_a, norm_b: Frobenius norms; 0 where the layer is left alone.
        cosine: of the two as vectors; 0 where one of them is zero.
        overlap: how much the input directions that they read coincide, 0 to 1: ``‖QₐᵀQ_b‖² / min(rₐ, r_b)`` with
            orthonormal bases of the rows of A (Hu et al. 2021, arXiv 2106.09685, section 7.2).
    """

    norm_a: float
    norm_b: float
    cosine: float
    overlap: float


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


@dataclass(frozen=True, slots=True)
class Merger:
    """A sum of updates at a lower rank.

    Attributes:
        adapter: the result.
        rank: its rank.
        kept: its Frobenius norm as a share of that of the whole sum.
    """

    adapter: Adapter
    rank: int
    kept: float


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
    first, second = model.encoder.expert(a), other.encoder.expert(b)
    info_a, info_b = model.experts[a], other.experts[b]
    gains_a, gains_b = _mean_gains(model, a), _mean_gains(other, b)
    total_a, total_b = _norm(first), _norm(second)
    cards = (asdict(info_a), asdict(info_b))
    config_a, config_b = cards[0].pop("config"), cards[1].pop("config")
    return ExpertDiff(
        a,
        b,
        first.fingerprint == second.fingerprint,
        total_a,
        total_b,
        _cosine(_inner(first, second), total_a, total_b),
        {name: _layer(first, second, name) for name in {**first.factors, **second.factors}},
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
) -> Merger:
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
    adapters = [model.encoder.expert(name) for name in names]
    given = [1.0] * len(names) if weights is None else [float(weight) for weight in weights]
    if len(given) != len(names) or not all(math.isfinite(weight) for weight in given):
        raise ExpertError(f"Give one finite weight for each of the {len(names)} experts, as in 0.5,0.5.")
    rank = max(adapter.rank for adapter in adapters) if rank is None else rank
    merger = merged_adapter(adapters, given, rank)
    infos = [model.experts[name] for name in names]
    generated: dict[str, int] = {}
    for info in infos:
        for way, count in info.generated.items():
            generated[way] = generated.get(way, 0) + count
    info = ExpertInfo(
        collection=", ".join(dict.fromkeys(info.collection for info in infos if info.collection)),
        queries=sum(info.queries for info in infos),
        config={"merged": dict(zip(names, given, strict=True)), "rank": merger.rank, "kept_norm": merger.kept},
        generated=generated,
        source=", ".join(dict.fromkeys(info.source for info in infos if info.source)),
        held_out_generated=0,
    )
    model.add_expert(out, merger.adapter, info)
    return merger


def merged_adapter(adapters: Sequence[Adapter], weights: Sequence[float], rank: int) -> Merger:
    """The best approximation of a weighted sum of updates at a rank, layer by layer (Eckart and Young 1936).

    The sum is ``[w₁s₁B₁ …] [A₁; …]``. With ``B = Q_B R_B`` and ``Aᵀ = Q_A R_A`` its singular values are those of
    ``R_B R_Aᵀ``, a matrix of the size of the ranks together.

    Raises:
        ExpertError: the rank is below 1.
    """
    if rank < 1:
        raise ExpertError(f"The rank of a merged expert is at least 1, not {rank}.")
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    kept, whole = 0.0, 0.0
    for name in dict.fromkeys(name for adapter in adapters for name in adapter.factors):
        b, a = _stacked(adapters, weights, name)
        (q_b, r_b), (q_a, r_a) = torch.linalg.qr(b), torch.linalg.qr(a.T)
        u, values, vt = torch.linalg.svd(r_b @ r_a.T)
        size = min(rank, len(values))
        root = values[:size].sqrt()
        new_a, new_b = root[:, None] * (vt[:size] @ q_a.T), (q_b @ u[:, :size]) * root
        factors[name] = (new_a.float().contiguous(), new_b.float().contiguous())
        kept, whole = kept + float(values[:size].square().sum()), whole + float(values.square().sum())
    result = Adapter(factors, 1.0)
    return Merger(result, result.rank, math.sqrt(kept / whole) if whole else 0.0)


def cosines(adapters: Sequence[Adapter]) -> Tensor:
    """Cosine similarity of all pairs of updates (E, E); rows of a zero update are zero."""
    products = torch.zeros(len(adapters), len(adapters), dtype=torch.float64)
    for name in dict.fromkeys(name for adapter in adapters for name in adapter.factors):
        present = [row for row, adapter in enumerate(adapters) if name in adapter.factors]
        chosen = [adapters[row] for row in present]
        ranks = [adapter.factors[name][0].shape[0] for adapter in chosen]
        owner = torch.repeat_interleave(torch.arange(len(chosen)), torch.tensor(ranks))
        b, a = _stacked(chosen, [1.0] * len(chosen), name)
        by_factor = (b.T @ b) * (a @ a.T)
        sums = torch.zeros(len(chosen), len(chosen), dtype=torch.float64)
        rows = torch.zeros(len(chosen), by_factor.shape[1], dtype=torch.float64).index_add_(0, owner, by_factor)
        sums.index_add_(1, owner, rows)
        place = torch.tensor(present)
        products[place[:, None], place] += sums
    norms = products.diagonal().clamp(min=0).sqrt()
    return torch.where(products == 0, 0.0, products / (norms[:, None] * norms).clamp(min=1e-300))


def _stacked(adapters: Sequence[Adapter], weights: Sequence[float], name: str) -> tuple[Tensor, Tensor]:
    """B (out, R) and A (R, in) of one layer in double precision, weights and scaling in B."""
    pairs = [(x.factors[name], w * x.scaling) for x, w in zip(adapters, weights, strict=True) if name in x.factors]
    b = torch.cat([b.detach().cpu().double() * share for (_, b), share in pairs], dim=1)
    return b, torch.cat([a.detach().cpu().double() for (a, _), _ in pairs])


def _layer(first: Adapter, second: Adapter, name: str) -> LayerDiff:
    present = [Adapter({name: x.factors[name]}, x.scaling) if name in x.factors else None for x in (first, second)]
    norms = [0.0 if part is None else _norm(part) for part in present]
    a, b = present
    if a is None or b is None:
        return LayerDiff(norms[0], norms[1], 0.0, 0.0)
    rows = [torch.linalg.qr(x.factors[name][0].detach().cpu().double().T)[0] for x in (a, b)]
    overlap = float((rows[0].T @ rows[1]).square().sum()) / min(rows[0].shape[1], rows[1].shape[1])
    return LayerDiff(norms[0], norms[1], _cosine(_inner(a, b), *norms), overlap)


def _inner(first: Adapter, second: Adapter) -> float:
    total = 0.0
    for name in first.factors.keys() & second.factors.keys():
        (b_1, a_1), (b_2, a_2) = _stacked([first], [1.0], name), _stacked([second], [1.0], name)
        total += float(((b_1.T @ b_2) * (a_1 @ a_2.T)).sum())
    return total


def _norm(adapter: Adapter) -> float:
    return math.sqrt(max(0.0, _inner(adapter, adapter)))


def _cosine(inner: float, norm_a: float, norm_b: float) -> float:
    return inner / (norm_a * norm_b) if norm_a and norm_b else 0.0


def _mean_gains(model: RouterRetriever, name: str) -> dict[str, float]:
    library = model.library
    if library is None:
        return {}
    column = library.experts.index(name)
    means = {collection: float(values[column]) for collection, values in library.mean_gains().items()}
    return {collection: mean for collection, mean in means.items() if not math.isnan(mean)}


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {key: (a.get(key), b.get(key)) for key in {**a, **b} if a.get(key) != b.get(key)}
