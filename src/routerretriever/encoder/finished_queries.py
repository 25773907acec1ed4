"""Queries encoded to the end once, so that maps can be trained on their vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from routerretriever.encoder.routed_encoder import RoutedEncoder
from routerretriever.kernels.vectors import Vectors
from routerretriever.lora.layers import Plan

BATCH = 512
"""Queries encoded at a time."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FinishedQueries:
    """Vectors of queries under one plan; a map is the only thing that can still change them.

    Attributes:
        encoder: made the vectors.
        unmapped: of the queries (n, d).
    """

    encoder: RoutedEncoder
    unmapped: Tensor

    def __len__(self) -> int:
        return len(self.unmapped)

    @classmethod
    def of(cls, encoder: RoutedEncoder, texts: Sequence[str], prompt: str | None) -> Self:
        """Encode queries by the base.

        Args:
            encoder: base and experts.
            texts: the queries.
            prompt: put before each query.
        """
        found = torch.empty(len(texts), encoder.dimension, device=encoder.device)
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))  # for bases that pad
        with torch.no_grad():
            for start in range(0, len(order), BATCH):
                rows = order[start : start + BATCH]
                features = encoder.tokenized_queries([texts[row] for row in rows], prompt)
                found[rows] = encoder.encode_plainly(features)["sentence_embedding"].float()
        return cls(encoder=encoder, unmapped=found)

    def route_embeddings(self) -> Vectors:
        """Return the vectors at unit length (n, d): what the router reads of a base that is used as a whole."""
        read: Vectors = F.normalize(self.unmapped, dim=-1).cpu().numpy()
        return read

    def only(self, rows: Sequence[int]) -> Self:
        """Return some of the queries, in the given order."""
        return replace(self, unmapped=self.unmapped[list(rows)])

    def vectors_by(self, plan_of: Callable[[list[int]], Plan | None]) -> Vectors:
        """Return sentence embeddings (n, d) with a plan for every batch, made from its row numbers."""
        found = torch.empty_like(self.unmapped)
        with torch.no_grad():
            for rows in self.batches_by_length(BATCH):
                found[rows] = self.vectors_of(plan_of(rows), rows)
        result: Vectors = found.cpu().numpy()
        return result

    def batches_by_length(self, size: int) -> Iterator[list[int]]:
        """Yield row numbers in batches."""
        for start in range(0, len(self), size):
            yield list(range(start, min(start + size, len(self))))

    def finished(self, plan: Plan | None) -> Self:
        """Return these queries: no plan can change what is before their maps."""
        assert plan is None
        return self

    def vectors(self, plan: Plan | None) -> Vectors:
        """Return sentence embeddings (n, d) of all queries after the map of a plan."""
        with torch.no_grad():
            found: Vectors = self.encoder.vector_map(self.unmapped, plan).float().cpu().numpy()
        return found

    def vectors_of(self, plan: Plan | None, rows: Sequence[int]) -> Tensor:
        """Return those of some queries, with gradients for the factors of the plan."""
        return self.encoder.vector_map(self.unmapped[list(rows)], plan).float()

    def length(self, row: int) -> int:
        """Return 0: all vectors cost the same, however long the queries were."""
        return 0
