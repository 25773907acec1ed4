"""Vectors in 8 bits: a quarter of the memory to read, and products whose error has a bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import simsimd
from numpy.typing import NDArray

from routerretriever.kernels.vectors import Vectors

_LARGEST = np.float32(127)
_BLOCK = 2048
_SHORTEST = np.float32(1e-12)  # a vector of zeros has some scale, too
_ROUNDING = 1e-5
"""More than what products of unit vectors in fp32 differ by themselves."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RoundedVectors:
    """Rows rounded to whole numbers, each with a scale of its own.

    Attributes:
        numbers: the rows over their scales (n, d).
        scales: of the rows (n,).
        errors: length of what rounding took from each row (n,).
    """

    numbers: NDArray[np.int8]
    scales: NDArray[np.float32]
    errors: NDArray[np.float32]

    @classmethod
    def of(cls, vectors: Vectors) -> Self:
        """Round vectors (n, d)."""
        scales = np.empty(len(vectors), np.float32)
        numbers = np.empty(vectors.shape, np.int8)
        errors = np.empty(len(vectors), np.float32)
        # In between, all of them together would take three times their memory.
        for start in range(0, len(vectors), _BLOCK):
            part = slice(start, start + _BLOCK)
            block = vectors[part]
            scales[part] = np.maximum(np.abs(block).max(axis=1), _SHORTEST) / _LARGEST
            whole = np.rint(block / scales[part, None])
            numbers[part] = whole
            errors[part] = np.linalg.norm(block - whole * scales[part, None], axis=1)
        return cls(numbers=numbers, scales=scales, errors=errors)

    def products(self, queries: Vectors) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return dot products with unit vectors, and how far each row of them may be off.

        By Cauchy and Schwarz ``|q·p − q'·p'| ≤ |q| |p − p'| + |q − q'| |p'|``, where ``'`` marks what was rounded.

        Args:
            queries: shape (m, d), of length 1 at most, as the rows are.

        Returns:
            Products (m, n) and the largest possible error of each query (m,).
        """
        rounded = RoundedVectors.of(queries)
        # Whole numbers below 2^24, which fp32 holds exactly up to d = 1,040; beyond, 1e-7 of them is lost.
        found = np.asarray(simsimd.cdist(rounded.numbers, self.numbers, "dot", out_dtype="float32"))
        found *= self.scales
        found *= rounded.scales[:, None]
        largest = self.errors.max(initial=0.0)
        bounds = largest + rounded.errors * (1 + largest) + np.float32(_ROUNDING)
        return found, bounds
