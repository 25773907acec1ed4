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


def top_k(queries: Vectors, documents: Vectors, k: int, similarity: str = "cosine") -> TopK:
    """Return the k most similar documents of every query, by a blocked matrix product.

    Args:
        queries: shape (n, d).
        documents: shape (m, d).
        k: at most m results are returned.
        similarity: ``cosine`` or ``dot``.
    """
    with torch.inference_mode():
        rows = as_similarity(torch.from_numpy(queries), similarity)
        columns = as_similarity(torch.from_numpy(documents), similarity).T
        blocks = [torch.topk(block @ columns, min(k, len(documents))) for block in rows.split(_BLOCK)]
        if not blocks:
            return TopK(np.empty((0, 0), np.float32), np.empty((0, 0), np.int64))
        return TopK(
            torch.cat([block.values for block in blocks]).numpy(),
            torch.cat([block.indices for block in blocks]).numpy(),
        )
