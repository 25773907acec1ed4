"""How similar queries are to pilots, computed as far as somebody asks.

Every query is compared with every pilot: the only work that grows with the number of experts. Routing by gain needs
no more than the nearest pilots, so all pilots are first ranked in the cheapest numbers that the processor multiplies
fast, and only the best of them compared exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from routerretriever.kernels.quantization import has_bfloat16, int8_product

SPARE = 24
"""Pilots that the exact comparison gets beyond those asked for: of 2,400 queries' 30 nearest among 4,753 pilots, 8-bit
integers misplaced none by more than 13 ranks, and among 51,200 by more than 18."""
MIN_RANKED = 2048
"""Fewer pilots are compared exactly at once."""


class Points:
    """Unit vectors (P, d) to compare queries with."""

    def __init__(self, vectors: Tensor) -> None:
        self.exact = vectors
        ranks = vectors.device.type == "cpu" and len(vectors) >= MIN_RANKED
        self.ranking = _ranking(vectors) if ranks else None

    def __reduce__(self) -> tuple[type[Points], tuple[Tensor]]:
        return Points, (self.exact,)

    def to(self, device: torch.device) -> Points:
        """The same points elsewhere."""
        return self if self.exact.device == device else Points(self.exact.to(device))


def _ranking(points: Tensor) -> Callable[[Tensor], Tensor] | None:
    """Queries → rough similarities to the points, where the processor has a way that is faster than the exact one."""
    if not has_bfloat16(points.device):
        return int8_product(points)
    columns = points.bfloat16().T
    return lambda queries: queries.bfloat16() @ columns


@dataclass(frozen=True, slots=True, eq=False)
class Nearest:
    """The k nearest points of every query, nearest first: cosine similarities and places, both (n, k)."""

    values: Tensor
    indices: Tensor


@dataclass(slots=True, eq=False)
class Similarities:
    """Cosine similarities of queries (n, d), unit vectors, to points (P, d)."""

    queries: Tensor
    points: Points
    _nearest: dict[int, Nearest] = field(default_factory=dict)

    def all(self) -> Tensor:
        """To every point (n, P)."""
        return self.queries @ self.points.exact.T

    def nearest(self, k: int) -> Nearest:
        """To the k nearest, or to all if there are fewer; asked again, the answer is at hand."""
        k = min(k, len(self.points.exact))
        if k not in self._nearest:
            fast = self.points.ranking is not None and k + SPARE <= len(self.points.exact)
            self._nearest[k] = self._ranked(k) if fast else _top(self.all(), k)
        return self._nearest[k]

    def _ranked(self, k: int) -> Nearest:
        assert self.points.ranking is not None
        rough = self.points.ranking(self.queries).topk(k + SPARE, dim=1, sorted=False).indices
        near = F.embedding(rough, self.points.exact)  # (n, k + SPARE, d)
        exact = torch.bmm(self.queries[:, None], near.transpose(1, 2))[:, 0]  # eight times as fast as near @ queries
        best = _top(exact, k)
        return Nearest(best.values, rough.gather(1, best.indices))


def _top(similarities: Tensor, k: int) -> Nearest:
    values, indices = similarities.topk(k, dim=1)
    return Nearest(values, indices)
