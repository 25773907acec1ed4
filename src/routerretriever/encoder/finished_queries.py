"""Queries encoded to the end once, so that maps can be trained on their vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from routerretriever.encoder.routed_encoder import RoutedEncoder
from routerretriever.kernels.vectors import Vectors
from routerretriever.lora.layers import Plan


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FinishedQueries:
    """Vectors of queries under one plan; a map is the only thing that can still change them.

    Attributes:
        encoder: made the vectors.
        finished: of the queries (n, d).
    """

    encoder: RoutedEncoder
    finished: Tensor

    def __len__(self) -> int:
        return len(self.finished)

    def vectors(self, plan: Plan | None) -> Vectors:
        """Return sentence embeddings (n, d) of all queries after the map of a plan."""
        with torch.no_grad():
            found: Vectors = self.encoder.vector_map(self.finished, plan).float().cpu().numpy()
        return found

    def vectors_of(self, plan: Plan | None, rows: Sequence[int]) -> Tensor:
        """Return those of some queries, with gradients for the factors of the plan."""
        return self.encoder.vector_map(self.finished[list(rows)], plan).float()

    def length(self, row: int) -> int:
        """Return 0: all vectors cost the same, however long the queries were."""
        return 0
