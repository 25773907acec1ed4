"""The routed forward pass through an engine's graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from routerretriever.encoder.graph import Graph
from routerretriever.encoder.row_weights import (
    BASE_COLUMN,
    MERGED_COLUMN,
    leading_columns,
    without_experts,
)
from routerretriever.encoder.text_tokenizer import TokenBatch
from routerretriever.encoder.token_graph import own_graph
from routerretriever.engine.engine_info import FP32, EngineInfo
from routerretriever.engine.experts import EngineExperts
from routerretriever.engine.sessions import Sessions
from routerretriever.kernels.threads import one_blas_thread
from routerretriever.kernels.vectors import Vectors, unit_rows


class _Group(NamedTuple):
    """Rows of a batch (n,), the graph that they run through, and what it needs besides."""

    rows: NDArray[np.int64]
    graph: Graph
    factors: dict[str, NDArray[np.float32]]


_WITH_FACTORS = 16
"""Rows that run together with factors: those of more take no less time for each, and more memory."""

Decide = Callable[[Vectors], Vectors]
"""Route embeddings (n, d) → weights (n, 2 + E) of base, merged and each expert; rows sum to 1."""


class RoutedPass:
    """Runs the lower graph, lets somebody decide, and runs the upper graphs for groups of rows.

    Args:
        info: of the engine.
        folder: of the engine.
        threads: of each graph; default one a core.
        precision: of the graphs.
    """

    def __init__(
        self, info: EngineInfo, folder: Path, threads: int | None = None, precision: str = FP32
    ) -> None:
        self._info = info
        own = own_graph(folder.parent, threads) if info.is_whole else None
        self._sessions = Sessions(folder, own, threads, precision)

    def base(self, tokens: TokenBatch, prompt: str | None) -> Vectors:
        """Return vectors (n, d) of the base."""
        return self._by_base(self._hidden(tokens, prompt)[0])

    def route_embeddings(self, tokens: TokenBatch, prompt: str | None) -> Vectors:
        """Return what the router reads (n, d): unit vectors."""
        return self._hidden(tokens, prompt)[1]

    def routed(
        self, tokens: TokenBatch, prompt: str | None, decide: Decide, experts: EngineExperts
    ) -> tuple[Vectors, Vectors]:
        """Return vectors (n, d) and the weights (n, 2 + E) that were decided."""
        hidden, embeddings = self._hidden(tokens, prompt)
        # Threads of numpy's products spin when they are done, and would keep the graphs from their cores.
        with one_blas_thread():
            weights = decide(embeddings)

        count = len(tokens.ids)
        vectors = np.empty((count, self._info.dimension), np.float32)
        for rows, graph, factors in self._groups(without_experts(weights, experts.only_mapped), experts):
            inputs = hidden if len(rows) == count else {name: hidden[name][rows] for name in hidden}
            vectors[rows] = graph({**inputs, **factors})[0]
        with one_blas_thread():
            return experts.mapped(vectors, weights), weights

    def _groups(self, weights: NDArray[np.float32], experts: EngineExperts) -> Iterator[_Group]:
        """Yield the parts of a batch: base and merged have graphs of their own, the others need factors."""
        columns = leading_columns(weights)
        rows = np.flatnonzero(columns == BASE_COLUMN)
        if rows.size:
            yield _Group(rows, self._sessions.upper, {})

        is_merged = columns == MERGED_COLUMN
        for weight in np.unique(weights[is_merged, MERGED_COLUMN]).tolist():
            rows = np.flatnonzero(is_merged & (weights[:, MERGED_COLUMN] == np.float32(weight)))
            yield _Group(rows, experts.merged(self._sessions, weight), {})

        rows = np.flatnonzero((columns != BASE_COLUMN) & ~is_merged)
        for start in range(0, rows.size, _WITH_FACTORS):
            block = rows[start : start + _WITH_FACTORS]
            factors = experts.factors.stacked([experts.parts(weights[row]) for row in block.tolist()])
            yield _Group(block, self._sessions.adapted, factors)

    def _hidden(self, tokens: TokenBatch, prompt: str | None) -> tuple[dict[str, NDArray[Any]], Vectors]:
        """Return the inputs of the upper graphs, and what the router reads (n, d)."""
        own = self._sessions.own_graph
        if own is None:
            found = self._sessions.lower({"input_ids": tokens.ids, "attention_mask": tokens.mask})
        else:
            found = [own(tokens)]
        pooled = tokens.mask
        left_out = self._info.prompt_lengths.get(prompt or "", 0)
        if left_out:
            pooled = pooled.copy()
            pooled[:, :left_out] = 0
        inputs = {"hidden": found[0], "attention_mask": tokens.mask, "pooled_mask": pooled}
        if self._info.routes_by_final_vector:
            return inputs, unit_rows(self._by_base(inputs))
        return inputs, found[1]

    def _by_base(self, inputs: dict[str, NDArray[Any]]) -> Vectors:
        vectors: Vectors = self._sessions.upper(inputs)[0]
        return vectors
