"""The experts of a state, ready for an engine's graphs."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from routerretriever.encoder.graph import Graph
from routerretriever.encoder.row_weights import FIRST_EXPERT, MERGED_COLUMN
from routerretriever.engine.engine_info import EngineInfo
from routerretriever.engine.factors import ExpertFactors, Parts
from routerretriever.engine.sessions import Sessions
from routerretriever.expert_state import ExpertState
from routerretriever.kernels.vectors import Vectors, unit_rows
from routerretriever.lora.adapter import Kind


class EngineExperts:
    """What a state's experts do to hidden states and to finished vectors.

    Args:
        state: the experts.
        info: of the engine.
        folder: of the engine.

    Attributes:
        state: the same.
        factors: of the layers.
        only_mapped: for each expert, whether it leaves the layers alone.
    """

    def __init__(self, state: ExpertState, info: EngineInfo, folder: Path) -> None:
        adapters = list(state.experts.values())
        self.state = state
        self.factors = ExpertFactors(adapters, info.layers, folder)
        self.only_mapped = [adapter.kind == Kind.MAP for adapter in adapters]
        self._info = info

    def parts(self, weights: NDArray[np.float32]) -> Parts:
        """Return the experts whose deltas make up one row, from its weights (2 + E,)."""
        each = weights[FIRST_EXPERT:]
        if weights[MERGED_COLUMN] > 0:
            each = each + weights[MERGED_COLUMN] / len(each)
        return tuple((number, float(each[number])) for number in np.flatnonzero(each).tolist())

    def merged(self, sessions: Sessions, weight: float) -> Graph:
        """Return the graph of the merged expert, applied with a weight."""
        return sessions.fused((id(self), weight), lambda: self.factors.fused(weight))

    def mapped(self, vectors: Vectors, weights: NDArray[np.float32]) -> Vectors:
        """Return finished vectors (n, d) after the maps of their experts.

        Args:
            vectors: of the base, or after its layers were changed.
            weights: of the candidates for each row (n, 2 + E).
        """
        maps = self.factors.maps
        has_map = np.array([pair is not None for pair in maps], bool)
        if not has_map.any():
            return vectors
        changed = vectors.copy()
        of_experts = weights[:, FIRST_EXPERT:] * has_map
        merged = weights[:, MERGED_COLUMN]
        for number in np.flatnonzero(of_experts.any(axis=0)).tolist():
            pair = maps[number]
            assert pair is not None
            rows = np.flatnonzero(of_experts[:, number])
            delta = (vectors[rows] @ pair[0].T) @ pair[1].T
            changed[rows] += of_experts[rows, number, None] * delta
        if merged.any():
            changed += merged[:, None] * (vectors @ self._mean_map.T)
        rows = np.flatnonzero(of_experts.any(axis=1) | (merged > 0))
        if self._info.to_unit_length:
            changed[rows] = unit_rows(changed[rows])
        return changed

    @cached_property
    def _mean_map(self) -> NDArray[np.float32]:
        """The mean of all experts' maps (d, d), zero for those without one."""
        size = self._info.dimension
        total = np.zeros((size, size), np.float32)
        for pair in self.factors.maps:
            if pair is not None:
                total += pair[1] @ pair[0]
        mean: NDArray[np.float32] = total / np.float32(len(self.factors.maps))
        return mean
