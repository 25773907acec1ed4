"""ONNX Runtime sessions of an engine's graphs, opened when they are first needed."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from routerretriever.encoder.graph import Arrays, Graph, open_graph
from routerretriever.encoder.token_graph import TokenGraph
from routerretriever.engine.engine_info import ADAPTED, COMPILE_AGAIN, FP32, INT8, LOWER, UPPER
from routerretriever.errors import EngineError, FormatError

MAX_FUSED = 4
"""Sessions with weights of their own that are kept at a time."""


class Sessions:
    """The graphs of one engine.

    Args:
        folder: of the engine.
        own_graph: the base's own, which takes the place of the lower one; ``None`` if it is no ONNX file.
        threads: of each session; default one a core.
        precision: of the graphs. Those with other weights are in fp32.
    """

    def __init__(
        self,
        folder: Path,
        own_graph: TokenGraph | None,
        threads: int | None = None,
        precision: str = FP32,
    ) -> None:
        self._folder = folder
        self._graphs = folder / INT8 if precision == INT8 else folder
        self.own_graph = own_graph
        self._threads = threads
        self._lock = threading.Lock()
        self._opened: dict[str, Graph] = {}
        self._fused: OrderedDict[object, Graph] = OrderedDict()

    @property
    def lower(self) -> Graph:
        """Token ids → hidden states and route embeddings."""
        return self._open(LOWER)

    @property
    def upper(self) -> Graph:
        """Hidden states → vectors of the base."""
        return self._open(UPPER)

    @property
    def adapted(self) -> Graph:
        """Hidden states and factors → vectors."""
        return self._open(ADAPTED)

    def fused(self, key: object, weights: Callable[[], Arrays]) -> Graph:
        """Return the upper graph with other weights; the least recently used is dropped.

        Args:
            key: of the weights.
            weights: makes them: name of the initializer → weight.
        """
        with self._lock:
            if key not in self._fused:
                self._fused[key] = self._session(self._folder / UPPER, weights())
                if len(self._fused) > MAX_FUSED:
                    self._fused.popitem(last=False)
            self._fused.move_to_end(key)
            return self._fused[key]

    def forget_fused(self) -> None:
        """Drop all weights of experts."""
        with self._lock:
            self._fused.clear()

    def _open(self, name: str) -> Graph:
        found = self._opened.get(name)
        if found is not None:
            return found
        with self._lock:
            if name not in self._opened:
                self._opened[name] = self._session(self._graphs / name, {})
            return self._opened[name]

    def _session(self, path: Path, replaced: Arrays) -> Graph:
        try:
            return open_graph(path, self._threads, replaced)
        except FormatError as error:
            raise EngineError(f"{error} {COMPILE_AGAIN}") from error
