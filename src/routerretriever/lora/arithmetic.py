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


def combine_adapters(adapters: Sequence[Adapter], weights: Sequence[float], rank: int) -> CombinedAdapter:
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
    return CombinedAdapter(result, result.rank, math.sqrt(kept / whole) if whole else 0.0)


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


def layer_diff(first: Adapter, second: Adapter, name: str) -> LayerDiff:
    """Compare the LoRA deltas of two experts in one layer."""
    present = [Adapter({name: x.factors[name]}, x.scaling) if name in x.factors else None for x in (first, second)]
    norms = [0.0 if part is None else norm(part) for part in present]
    a, b = present
    if a is None or b is None:
        return LayerDiff(norms[0], norms[1], 0.0, 0.0)
    rows = [torch.linalg.qr(x.factors[name][0].detach().cpu().double().T)[0] for x in (a, b)]
    overlap = float((rows[0].T @ rows[1]).square().sum()) / min(rows[0].shape[1], rows[1].shape[1])
    return LayerDiff(norms[0], norms[1], cosine(inner_product(a, b), *norms), overlap)


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
    return product / (norm_a * norm_b) if norm_a and norm_b else 0.0
