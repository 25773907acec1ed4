"""Exact similarity search over vectors that fit in memory."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from routerretriever.kernels.vectors import Vectors

SIMILARITIES = ("cosine", "dot")
"""How a query may be compared with a document."""

_BLOCK = 256  # queries scored at once; bounds the memory of the score matrix


class TopK(NamedTuple):
    """Scores (n, k) and column numbers (n, k), best first."""

    scores: NDArray[np.float32]
    columns: NDArray[np.int64]


def as_similarity(vectors: Tensor, similarity: str) -> Tensor:
    """Prepare vectors so that a dot product is the wanted similarity (``cosine`` or ``dot``)."""
    if similarity == "cosine":
        return F.normalize(vectors, dim=-1)
    return vectors


def top_k(
    queries: Vectors,
    documents: Vectors,
    k: int,
    similarity: str = "cosine",
    starts: NDArray[np.intp] | None = None,
) -> TopK:
    """Return the k most similar documents of every query, by a blocked matrix product.

    Args:
        queries: shape (n, d).
        documents: shape (P, d).
        k: results; at most as many as there are documents are returned.
        similarity: ``cosine`` or ``dot``.
        starts: first row of each document (m,), where several rows are passages of one: documents
            are then ranked by their best row, and columns are their numbers. ``None`` if each row is
            a document.
    """
    count = len(documents) if starts is None else len(starts)
    blocks = []
    with torch.inference_mode():
        rows = as_similarity(torch.from_numpy(queries), similarity)
        columns = as_similarity(torch.from_numpy(documents), similarity).T
        for block in rows.split(_BLOCK):
            scores = block @ columns
            if starts is not None:
                scores = torch.from_numpy(np.maximum.reduceat(scores.numpy(), starts, axis=1))
            blocks.append(torch.topk(scores, min(k, count)))
        if not blocks:
            return TopK(np.empty((0, 0), np.float32), np.empty((0, 0), np.int64))
        return TopK(
            torch.cat([block.values for block in blocks]).numpy(),
            torch.cat([block.indices for block in blocks]).numpy(),
        )
