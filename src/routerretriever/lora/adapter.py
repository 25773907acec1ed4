"""An adapter: the low-rank factors of one expert.

They belong to linear layers of the base (LoRA), to the finished vector (a map), or to both. The map
is one more layer: ``q' = q + B A q`` is LoRA on the identity.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn import functional as F

VECTOR_MAP = "vector_map"
"""Name of the layer that changes the finished vector."""


class Kind(StrEnum):
    """What an expert changes."""

    LORA = "lora"
    """Linear layers of the base."""
    MAP = "map"
    """The finished vector alone."""
    BOTH = "both"
    """Layers, and then the vector."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """The factors of one expert.

    Attributes:
        factors: module name → (A, B), shapes (r, in_features) and (out_features, r);
            :data:`VECTOR_MAP` is the name of the map.
        scaling: the factor applied to every ``B @ A`` (PEFT's ``lora_alpha / r``).
    """

    factors: dict[str, tuple[Tensor, Tensor]]
    scaling: float

    @property
    def kind(self) -> Kind:
        """What the expert changes."""
        if VECTOR_MAP not in self.factors:
            return Kind.LORA
        return Kind.MAP if len(self.factors) == 1 else Kind.BOTH

    @property
    def layers(self) -> Adapter:
        """The part that changes layers of the base."""
        factors = {name: pair for name, pair in self.factors.items() if name != VECTOR_MAP}
        return Adapter(factors, self.scaling)

    @property
    def rank(self) -> int:
        """The largest rank of any factor pair."""
        return max((a.shape[0] for a, _ in self.factors.values()), default=0)

    def rank_in(self, name: str) -> int:
        """Return the rank in one layer; 0 where the adapter leaves it alone."""
        if name not in self.factors:
            return 0
        return self.factors[name][0].shape[0]

    def with_map(self, other: Adapter) -> Adapter:
        """Return the layers of this adapter with the map of another one behind them."""
        a, b = other.factors[VECTOR_MAP]
        # Both parts have one scaling, so the other's goes into its B.
        return Adapter(
            {**self.layers.factors, VECTOR_MAP: (a, b * (other.scaling / self.scaling))}, self.scaling
        )

    @property
    def fingerprint(self) -> str:
        """A hash of the factors, the scaling multiplied into B: it survives saving and loading."""
        digest = hashlib.blake2b(digest_size=16)
        for name, (a, b) in sorted(self.factors.items()):
            digest.update(f"{name} {tuple(a.shape)} {tuple(b.shape)}".encode())
            for factor in (a, b * self.scaling):
                digest.update(factor.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def parameters(self) -> list[Tensor]:
        """All factors, in a stable order."""
        return list(chain.from_iterable(self.factors.values()))

    def detached(self) -> Adapter:
        """A copy of the factors on the CPU that no optimiser touches."""
        return self.mapped(lambda factor: factor.detach().clone().cpu())

    def scaled(self, strength: float) -> Adapter:
        """The same factors with a smaller or larger update."""
        return Adapter(self.factors, self.scaling * strength)

    def placed(self, weights: Mapping[str, Tensor]) -> Adapter:
        """The factors where the layers' own weights are, and in their precision.

        Args:
            weights: name → weight of each layer.
        """
        factors: dict[str, tuple[Tensor, Tensor]] = {}
        for name, (a, b) in self.factors.items():
            like = weights[name].detach()
            factors[name] = (a.to(like), b.to(like))
        return Adapter(factors, self.scaling)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Adapter:
        """The factors after something was done to each."""
        factors: dict[str, tuple[Tensor, Tensor]] = {}
        for name, (a, b) in self.factors.items():
            factors[name] = (change(a), change(b))
        return Adapter(factors, self.scaling)

    def pair(self, name: str, weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
        """Return A and B for a layer, padded with zeros to a rank.

        Args:
            name: of the layer.
            weight: its own weight (out_features, in_features).
            rank: at least the adapter's own.

        Returns:
            A (rank, in_features) and B (out_features, rank); all zeros where the adapter leaves the layer alone.
        """
        if name not in self.factors:
            out_features, in_features = weight.shape
            return weight.new_zeros(rank, in_features), weight.new_zeros(out_features, rank)
        a, b = self.factors[name]
        missing = rank - a.shape[0]
        if not missing:
            return a, b
        return F.pad(a, (0, 0, 0, missing)), F.pad(b, (0, missing))

    @classmethod
    def initial(
        cls, layers: Mapping[str, nn.Linear], rank: int, alpha: float, generator: torch.Generator
    ) -> Adapter:
        """PEFT's initialisation: A Kaiming-uniform, B zero, so that training starts at the base."""
        factors: dict[str, tuple[Tensor, Tensor]] = {}
        for name, layer in layers.items():
            a = torch.empty(rank, layer.in_features)
            nn.init.kaiming_uniform_(a, a=5**0.5, generator=generator)
            b = torch.zeros(layer.out_features, rank)
            device = layer.weight.device
            factors[name] = (a.to(device).requires_grad_(), b.to(device).requires_grad_())
        return cls(factors, alpha / rank)
