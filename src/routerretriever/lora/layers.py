"""Linear layers that apply an adapter, and the plans that say how for a batch."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from routerretriever.lora.adapter import VECTOR_MAP, Adapter


class Plan(Protocol):
    """How a linear layer treats the rows it is given."""

    def __call__(self, layer: LoraLinear, x: Tensor) -> Tensor: ...

    def changes(self, name: str) -> bool:
        """Return whether any adapter of the plan changes a layer."""


class Selection(threading.local):
    """The plan in force in this thread; ``None`` means the plain base."""

    plan: Plan | None = None

    def __reduce__(self) -> tuple[type[Selection], tuple[()]]:
        return Selection, ()

    @contextmanager
    def use(self, plan: Plan | None) -> Iterator[None]:
        """Apply ``plan`` within the block."""
        previous, self.plan = self.plan, plan
        try:
            yield
        finally:
            self.plan = previous


class LoraLinear(nn.Linear):
    """A linear layer that can apply the experts' LoRA deltas.

    It shares the base layer's own parameters under their own names, so the state dict
    of the surrounding model stays that of the plain base. The experts' factors come
    with the plan.
    """

    def __init__(self, base: nn.Linear, name: str, selection: Selection) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        self.name, self.selection = name, selection
        self.half_weight: tuple[Tensor, Tensor | None] | None = None

    def fused_weight(self, adapters: Sequence[Adapter], weight: float) -> Tensor:
        """Return the weight with ``weight`` times the mean delta of some experts added."""
        of_a: list[Tensor] = []
        of_b: list[Tensor] = []
        for adapter in adapters:
            if self.name not in adapter.factors:
                continue
            a, b = adapter.factors[self.name]
            of_a.append(a)
            of_b.append(b * adapter.scaling)
        if not of_a:
            return self.weight.detach()
        total = torch.cat(of_b, dim=1), torch.cat(of_a)
        return torch.addmm(self.weight.detach(), *total, alpha=weight / len(adapters))

    def in_half_precision(self, x: Tensor) -> Tensor:
        """The base's own product, computed in bfloat16; gradients reach ``x`` alone."""
        if self.half_weight is None or self.half_weight[0].device != x.device:
            bias: Tensor | None = None
            if self.bias is not None:
                bias = self.bias.detach().bfloat16()
            self.half_weight = self.weight.detach().bfloat16(), bias
        product: Tensor = _HalfProduct.apply(x, *self.half_weight)  # type: ignore[no-untyped-call]
        return product

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's own parameter name
        """Apply the plan in force; without one this is ``nn.Linear`` exactly."""
        plan = self.selection.plan
        if plan is None:
            return F.linear(input, self.weight, self.bias)
        return plan(self, input)


def shapes(layers: Mapping[str, nn.Linear]) -> dict[str, tuple[int, int]]:
    """Return the shape (out, in) of each layer's weight."""
    return {name: (layer.out_features, layer.in_features) for name, layer in layers.items()}


def placed(adapter: Adapter, weights: Mapping[str, Tensor]) -> Adapter:
    """Return the factors as tensors where the layers' own weights are, and in their precision.

    Args:
        adapter: of tensors or arrays.
        weights: name → weight of each layer.
    """
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    for name, (a, b) in adapter.factors.items():
        like = weights[name].detach()
        factors[name] = torch.as_tensor(a).to(like), torch.as_tensor(b).to(like)
    return Adapter(factors, adapter.scaling)


def initial_adapter(
    layers: Mapping[str, nn.Linear], rank: int, alpha: float, generator: torch.Generator
) -> Adapter:
    """Return PEFT's initialisation: A Kaiming-uniform, B zero, so that training starts at the base."""
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    for name, layer in layers.items():
        a = torch.empty(rank, layer.in_features)
        nn.init.kaiming_uniform_(a, a=5**0.5, generator=generator)
        b = torch.zeros(layer.out_features, rank)
        device = layer.weight.device
        factors[name] = (a.to(device).requires_grad_(), b.to(device).requires_grad_())
    return Adapter(factors, alpha / rank)


def _padded_pair(adapter: Adapter, name: str, weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return A (rank, in) and B (out, rank) for a layer, padded with zeros to a rank.

    All zeros where the adapter leaves the layer alone.
    """
    if name not in adapter.factors:
        out_features, in_features = weight.shape
        return weight.new_zeros(rank, in_features), weight.new_zeros(out_features, rank)
    a, b = adapter.factors[name]
    missing = rank - a.shape[0]
    if not missing:
        return a, b
    return F.pad(a, (0, 0, 0, missing)), F.pad(b, (0, missing))


class _HalfProduct(torch.autograd.Function):
    """``x @ weight.T + bias`` in bfloat16 for a frozen weight, its result and gradient in x's precision."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.weight = weight
        return F.linear(x.bfloat16(), weight, bias).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        return (gradient.bfloat16() @ ctx.weight).to(gradient.dtype), None, None


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """All rows use one adapter whose factors may need gradients.

    Attributes:
        dropout: of the adapter's input.
        half: multiply by the frozen weights in bfloat16; the adapter's own products
            keep their precision.
    """

    adapter: Adapter
    dropout: float = 0.0
    half: bool = False

    def __call__(self, layer: LoraLinear, x: Tensor) -> Tensor:
        base = layer.in_half_precision(x) if self.half else F.linear(x, layer.weight, layer.bias)
        if layer.name not in self.adapter.factors:
            return base
        a, b = self.adapter.factors[layer.name]

        # The factors are trained in fp32, also for a base that is stored in less.
        x = x.to(a.dtype)
        if self.dropout:
            x = F.dropout(x, self.dropout)
        return base + F.linear(F.linear(x, a), b * self.adapter.scaling).to(base.dtype)

    def changes(self, name: str) -> bool:
        return name in self.adapter.factors


class _OfSeveral:
    """A plan in which several adapters take part."""

    __slots__ = ()
    adapters: tuple[Adapter, ...]

    def changes(self, name: str) -> bool:
        return any(name in adapter.factors for adapter in self.adapters)


@dataclass(frozen=True, slots=True)
class FusedPlan(_OfSeveral):
    """All rows use a part of the mean delta of some experts, fused into the weight: as fast as the base.

    The weights are made when a layer first asks for them, and live as long as the plan
    does.
    """

    adapters: tuple[Adapter, ...]
    weight: float = 1.0
    weights: dict[str, Tensor] = field(default_factory=dict, compare=False, repr=False)

    def __call__(self, layer: LoraLinear, x: Tensor) -> Tensor:
        weight = self.weights.get(layer.name)
        if weight is None or (weight.device, weight.dtype) != (layer.weight.device, layer.weight.dtype):
            weight = self.weights[layer.name] = layer.fused_weight(self.adapters, self.weight)
        return F.linear(x, weight, layer.bias)


@dataclass(frozen=True, slots=True)
class GatheredPlan(_OfSeveral):
    """Row i uses the sum of a few experts' deltas, by two batched products over stacked factors.

    Attributes:
        adapters: k of each row, row after row (n · k).
        shares: how much of each (n, k), their scaling included; ``None`` is all of it.
    """

    adapters: tuple[Adapter, ...]
    shares: Tensor | None = None

    @classmethod
    def of(cls, experts: Sequence[Adapter], chosen: Tensor, shares: Tensor | None = None) -> GatheredPlan:
        """Return the plan in which rows use the experts ``chosen`` (n, k), and ``shares`` (n, k) of their deltas."""
        numbers = chosen.flatten().tolist()
        adapters = tuple(experts[number] for number in numbers)
        if any(adapter.scaling != 1.0 for adapter in adapters):
            scaling = torch.tensor([adapter.scaling for adapter in adapters], device=chosen.device).view(
                chosen.shape
            )
            if shares is not None:
                scaling = shares * scaling
            shares = scaling
        return cls(adapters, shares)

    def __call__(self, layer: LoraLinear, x: Tensor) -> Tensor:
        n = len(x)
        k = len(self.adapters) // n
        rank = max(adapter.rank_in(layer.name) for adapter in self.adapters)
        if not rank:
            return F.linear(x, layer.weight, layer.bias)
        of_a: list[Tensor] = []
        of_b: list[Tensor] = []
        for adapter in self.adapters:
            pair = _padded_pair(adapter, layer.name, layer.weight, rank)
            of_a.append(pair[0])
            of_b.append(pair[1])
        a = torch.stack(of_a).view(n, k * rank, -1)
        b = torch.stack(of_b)
        if k > 1:
            b = b.view(n, k, -1, rank).transpose(1, 2).reshape(n, -1, k * rank)
        low = torch.bmm(x, a.transpose(1, 2))
        if self.shares is not None:
            low = low * self.shares.repeat_interleave(rank, dim=1)[:, None].to(low.dtype)
        return F.linear(x, layer.weight, layer.bias).baddbmm_(low, b.transpose(1, 2))


@dataclass(frozen=True, slots=True)
class SlicedPlan(_OfSeveral):
    """Rows are ordered by group, and each group uses the whole delta of one expert.

    Attributes:
        adapters: one a group.
        sizes: rows of each group.
    """

    adapters: tuple[Adapter, ...]
    sizes: tuple[int, ...]

    def __call__(self, layer: LoraLinear, x: Tensor) -> Tensor:
        output = F.linear(x, layer.weight, layer.bias)
        groups = zip(self.adapters, x.split(self.sizes), output.split(self.sizes), strict=True)
        for adapter, rows, result in groups:
            if layer.name in adapter.factors:
                a, b = adapter.factors[layer.name]
                low = F.linear(rows.reshape(-1, layer.in_features), a)
                result.view(-1, layer.out_features).addmm_(low, b.T, alpha=adapter.scaling)
        return output


def vector_map(dimension: int, selection: Selection) -> LoraLinear:
    """Return the layer behind the base's last one: it gives every vector back unless an expert changes it.

    Args:
        dimension: of the finished vectors.
        selection: says which plan is in force.
    """
    identity = nn.Linear(dimension, dimension, bias=False).requires_grad_(False)
    nn.init.eye_(identity.weight)
    return LoraLinear(identity, VECTOR_MAP, selection)
