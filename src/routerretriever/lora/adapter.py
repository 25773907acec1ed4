"""An adapter: the low-rank factors of one expert.

They belong to linear layers of the base (LoRA), to the finished vector (a map), or to both. The map
is one more layer: ``q' = q + B A q`` is LoRA on the identity.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # reading and routing do without torch
    from torch import Tensor

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
            :data:`VECTOR_MAP` is the name of the map. Tensors, or arrays where they come
            from files or belong to a model without torch.
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
                digest.update(as_array(factor).tobytes())
        return digest.hexdigest()

    def parameters(self) -> list[Tensor]:
        """All factors, in a stable order."""
        return list(chain.from_iterable(self.factors.values()))

    @property
    def nbytes(self) -> int:
        """Bytes of all factors."""
        return sum(factor.numel() * factor.element_size() for factor in self.parameters())

    def detached(self) -> Adapter:
        """A copy of the factors on the CPU that no optimiser touches."""
        return self.mapped(lambda factor: factor.detach().clone().cpu())

    def scaled(self, strength: float) -> Adapter:
        """The same factors with a smaller or larger update."""
        return Adapter(self.factors, self.scaling * strength)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Adapter:
        """The factors after something was done to each."""
        factors: dict[str, tuple[Tensor, Tensor]] = {}
        for name, (a, b) in self.factors.items():
            factors[name] = (change(a), change(b))
        return Adapter(factors, self.scaling)


def as_array(factor: Tensor | NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a factor as a contiguous float32 array."""
    if not isinstance(factor, np.ndarray):
        factor = factor.detach().float().cpu().numpy()
    return np.ascontiguousarray(factor, np.float32)
