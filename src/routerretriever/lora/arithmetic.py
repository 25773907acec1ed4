"""Arithmetic on adapters: norms, cosines, merging."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from routerretriever.errors import ExpertError
from routerretriever.lora.adapter import Adapter


@dataclass(frozen=True, slots=True)
class LayerDiff:
    """The LoRA deltas of two experts in one layer.

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
class CombinedAdapter:
    """A weighted sum of LoRA deltas at a lower rank.

    Attributes:
        adapter: the result.
        rank: its rank.
        kept: its Frobenius norm as a share of that of the whole sum.
    """

    adapter: Adapter
    rank: int
    kept: float


def combine_adapters(
    adapters: Sequence[Adapter], weights: Sequence[float], rank: int | None = None
) -> CombinedAdapter:
    """Return the best approximation of a weighted sum of LoRA deltas at a rank, layer by layer (Eckart and Young 1936).

    The sum is ``[w₁s₁B₁ …] [A₁; …]``. With ``B = Q_B R_B`` and ``Aᵀ = Q_A R_A`` its singular values are those of
    ``R_B R_Aᵀ``, a matrix of the size of the ranks together.

    Args:
        adapters: any number.
        weights: one for each.
        rank: in every layer; default the largest that one of the adapters has there.

    Raises:
        ExpertError: the rank is below 1.
    """
    if rank is not None and rank < 1:
        raise ExpertError(f"The rank of a merged expert is at least 1, not {rank}.")
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    kept, whole = 0.0, 0.0
    for name in _layers(adapters):
        b, a = _stacked(adapters, weights, name)
        (q_b, r_b), (q_a, r_a) = torch.linalg.qr(b), torch.linalg.qr(a.T)
        u, values, vt = torch.linalg.svd(r_b @ r_a.T)
        wanted = max(adapter.rank_in(name) for adapter in adapters) if rank is None else rank
        size = min(wanted, len(values))
        root = values[:size].sqrt()
        new_a, new_b = root[:, None] * (vt[:size] @ q_a.T), (q_b @ u[:, :size]) * root
        factors[name] = (new_a.float().contiguous(), new_b.float().contiguous())
        kept += float(values[:size].square().sum())
        whole += float(values.square().sum())

    result = Adapter(factors, 1.0)
    if not whole:
        return CombinedAdapter(result, result.rank, 0.0)
    return CombinedAdapter(result, result.rank, math.sqrt(kept / whole))


def cosines(adapters: Sequence[Adapter]) -> Tensor:
    """Return the cosine similarity of all pairs of LoRA deltas (E, E); rows of a zero delta are zero."""
    products = torch.zeros(len(adapters), len(adapters), dtype=torch.float64)
    for name in _layers(adapters):
        present: list[int] = []
        chosen: list[Adapter] = []
        ranks: list[int] = []
        for row, adapter in enumerate(adapters):
            if name in adapter.factors:
                present.append(row)
                chosen.append(adapter)
                ranks.append(adapter.factors[name][0].shape[0])

        # Products of single factors, summed over those that belong to the same pair of adapters.
        owner = torch.repeat_interleave(torch.arange(len(chosen)), torch.tensor(ranks))
        b, a = _stacked(chosen, [1.0] * len(chosen), name)
        by_factor = (b.T @ b) * (a @ a.T)
        sums = torch.zeros(len(chosen), len(chosen), dtype=torch.float64)
        rows = torch.zeros(len(chosen), by_factor.shape[1], dtype=torch.float64).index_add_(
            0, owner, by_factor
        )
        sums.index_add_(1, owner, rows)
        place = torch.tensor(present)
        products[place[:, None], place] += sums
    norms = products.diagonal().clamp(min=0).sqrt()
    return torch.where(products == 0, 0.0, products / (norms[:, None] * norms).clamp(min=1e-300))


def _layers(adapters: Sequence[Adapter]) -> list[str]:
    """Return the layers that any of the adapters changes, in the order they are first seen."""
    names: dict[str, None] = {}
    for adapter in adapters:
        names.update(dict.fromkeys(adapter.factors))
    return list(names)


def _stacked(adapters: Sequence[Adapter], weights: Sequence[float], name: str) -> tuple[Tensor, Tensor]:
    """Return B (out, R) and A (R, in) of one layer in double precision, weights and scaling in B."""
    of_a: list[Tensor] = []
    of_b: list[Tensor] = []
    for adapter, weight in zip(adapters, weights, strict=True):
        if name in adapter.factors:
            a, b = adapter.factors[name]
            of_a.append(_double(a))
            of_b.append(_double(b) * (weight * adapter.scaling))
    return torch.cat(of_b, dim=1), torch.cat(of_a)


def _double(factor: Tensor) -> Tensor:
    """Return a factor, which may be an array, in double precision."""
    return torch.as_tensor(factor).detach().cpu().double()


def layer_diff(first: Adapter, second: Adapter, name: str) -> LayerDiff:
    """Compare the LoRA deltas of two experts in one layer."""
    a, b = _only_layer(first, name), _only_layer(second, name)
    norm_a, norm_b = norm(a), norm(b)
    if not a.factors or not b.factors:
        return LayerDiff(norm_a, norm_b, 0.0, 0.0)

    q_a, q_b = _input_directions(a, name), _input_directions(b, name)
    overlap = float((q_a.T @ q_b).square().sum()) / min(q_a.shape[1], q_b.shape[1])
    return LayerDiff(norm_a, norm_b, cosine(inner_product(a, b), norm_a, norm_b), overlap)


def _only_layer(adapter: Adapter, name: str) -> Adapter:
    """Return the part of an adapter in one layer; without factors where it leaves the layer alone."""
    if name not in adapter.factors:
        return Adapter({}, adapter.scaling)
    return Adapter({name: adapter.factors[name]}, adapter.scaling)


def _input_directions(adapter: Adapter, name: str) -> Tensor:
    """Return an orthonormal basis (in, r) of the input directions that an adapter reads in a layer."""
    a, _ = adapter.factors[name]
    basis: Tensor = torch.linalg.qr(_double(a).T)[0]
    return basis


def inner_product(first: Adapter, second: Adapter) -> float:
    """Return the inner product of two LoRA deltas, all layers as one vector."""
    total = 0.0
    for name in first.factors.keys() & second.factors.keys():
        (b_1, a_1), (b_2, a_2) = _stacked([first], [1.0], name), _stacked([second], [1.0], name)
        total += float(((b_1.T @ b_2) * (a_1 @ a_2.T)).sum())
    return total


def norm(adapter: Adapter) -> float:
    """Return the Frobenius norm of a LoRA delta, all layers as one vector."""
    return math.sqrt(max(0.0, inner_product(adapter, adapter)))


def cosine(product: float, norm_a: float, norm_b: float) -> float:
    """Return a cosine from an inner product and two norms; 0 where a norm is 0."""
    if not norm_a or not norm_b:
        return 0.0
    return product / (norm_a * norm_b)
