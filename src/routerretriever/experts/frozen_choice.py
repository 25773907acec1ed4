"""Which passage of a long document a training compares with a query: fixed before it begins."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from routerretriever.encoder.document_vectors import DocumentVectors


class FrozenChoice:
    """For each query and document, the passage that the frozen base finds most similar.

    The base decides, and not the expert in training, so that the target of a query is
    the same in every step.

    Args:
        queries: vectors of the queries by the base (n, d), ready for a dot product.
        documents: of the collection (m).
        passages: vectors of their passages (P, d), ready for a dot product.
    """

    def __init__(self, queries: Tensor, documents: DocumentVectors, passages: Tensor) -> None:
        self._queries, self._documents, self._passages = queries, documents, passages
        self._owners = torch.from_numpy(documents.owners).to(passages.device)

    def best(self, query: int, document: int) -> int:
        """Return the passage of a document that is most similar to a query."""
        own = self._documents.passages_of(document)
        if len(own) == 1:
            return own[0]
        return own[int((self._passages[own.start : own.stop] @ self._queries[query]).argmax())]

    def are_best(self, queries: Sequence[int], passages: Sequence[int] | None) -> Tensor:
        """Return which passages are the most similar of their document, among those given.

        Args:
            queries: numbers of n queries.
            passages: numbers of c passages; ``None`` for all.

        Returns:
            A boolean for each query and passage (n, c).
        """
        vectors, owners = self._passages, self._owners
        if passages is not None:
            vectors, owners = vectors[passages], owners[passages]
        scores = self._queries[queries] @ vectors.T
        owners = owners.expand(len(scores), -1)
        lowest = torch.full((len(scores), len(self._documents.documents)), -torch.inf, device=scores.device)
        highest = lowest.scatter_reduce(1, owners, scores, "amax")
        return scores == highest.gather(1, owners)
