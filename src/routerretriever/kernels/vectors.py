"""The type of what is encoded, searched and routed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
"""A float32 matrix of shape (n, d)."""
