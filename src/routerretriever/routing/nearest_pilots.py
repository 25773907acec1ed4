"""Similarities of queries to pilots, computed only when they are needed.

Every query is compared with every pilot: the only work that grows with the number of experts. Routing by
gain needs no more than the nearest pilots, so all pilots are first ranked with the cheapest numbers that the
processor multiplies fast, and only the best of them are compared exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from routerretriever.kernels.quantization import has_bfloat16, int8_product

SPARE = 24
"""Pilots that are compared exactly beyond those asked for. Of the 30 nearest of 2,400 queries among 4,753
pilots, 8-bit integers misplaced none by more than 13 ranks; among 51,200 pilots, by more than 18."""
MIN_RANKED = 2048
"""With fewer pilots, all are compared exactly at once."""


class PilotVectors:
    """Unit vectors of the pilots (P, d), ready to be compared with queries."""

    def __init__(self, vectors: Tensor) -> None:
        self.exact = vectors
        ranks = vectors.device.type == "cpu" and len(vectors) >= MIN_RANKED
        self.ranking = _ranking(vectors) if ranks else None

    def __reduce__(self) -> tuple[type[PilotVectors], tuple[Tensor]]:
        return PilotVectors, (self.exact,)

    def to(self, device: torch.device) -> PilotVectors:
        """Return the same vectors on another device."""
        return self if self.exact.device == device else PilotVectors(self.exact.to(device))


def _ranking(vectors: Tensor) -> Callable[[Tensor], Tensor] | None:
    """Return a function from queries to approximate similarities, if the processor has a faster one than the exact."""
    if not has_bfloat16(vectors.device):
        return int8_product(vectors)
    columns = vectors.bfloat16().T
    return lambda queries: queries.bfloat16() @ columns


@dataclass(frozen=True, slots=True, eq=False)
class Nearest:
    """The k nearest pilots of every query, nearest first: cosine similarities and rows, both (n, k)."""

    values: Tensor
    indices: Tensor


@dataclass(slots=True, eq=False)
class Similarities:
    """Cosine similarities of queries (n, d), unit vectors, to pilots (P, d)."""

    queries: Tensor
    pilots: PilotVectors
    _nearest: dict[int, Nearest] = field(default_factory=dict)

    def all(self) -> Tensor:
        """Return the similarity to every pilot (n, P)."""
        return self.queries @ self.pilots.exact.T

    def nearest(self, k: int) -> Nearest:
        """Return the k nearest pilots, or all if there are fewer; the answer is kept."""
        k = min(k, len(self.pilots.exact))
        if k not in self._nearest:
            fast = self.pilots.ranking is not None and k + SPARE <= len(self.pilots.exact)
            self._nearest[k] = self._ranked(k) if fast else _top(self.all(), k)
        return self._nearest[k]

    def _ranked(self, k: int) -> Nearest:
        assert self.pilots.ranking is not None
        rough = self.pilots.ranking(self.queries).topk(k + SPARE, dim=1, sorted=False).indices
        near = F.embedding(rough, self.pilots.exact)  # (n, k + SPARE, d)
        exact = torch.bmm(self.queries[:, None], near.transpose(1, 2))[
            :, 0
        ]  # eight times as fast as near @ queries
        best = _top(exact, k)
        return Nearest(best.values, rough.gather(1, best.indices))


def _top(similarities: Tensor, k: int) -> Nearest:
    values, indices = similarities.topk(k, dim=1)
    return Nearest(values, indices)
