"""Vectors that lie as those of texts do: around centres."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from routerretriever.kernels.vectors import Vectors

QUERIES = 200
BLOCK = 50_000
SPREAD = 0.75  # of a vector around its cluster's centre, whose length is 1


def clustered(count: int, dimension: int, seed: int) -> Iterator[Vectors]:
    """Unit vectors around a few thousand centres, in blocks; queries are drawn with another seed."""
    centres = np.random.default_rng(0).normal(size=(2000, dimension)) / dimension**0.5
    rng = np.random.default_rng(seed)
    for start in range(0, count, BLOCK):
        rows = min(BLOCK, count - start)
        noise = rng.normal(scale=SPREAD / dimension**0.5, size=(rows, dimension))
        block = centres[rng.integers(len(centres), size=rows)] + noise
        yield (block / np.linalg.norm(block, axis=1, keepdims=True)).astype(np.float32)
