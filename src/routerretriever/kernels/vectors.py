"""The type of what is encoded, searched and routed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
"""A float32 matrix of shape (n, d)."""


def unit_rows(vectors: Vectors) -> Vectors:
    """Return vectors (n, d) at unit length; those of zeros stay as they are."""
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))[:, None]
    unit: Vectors = vectors / np.maximum(lengths, np.float32(1e-12))
    return unit
