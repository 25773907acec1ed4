"""ONNX Runtime sessions of an engine's graphs, opened when they are first needed."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from routerretriever.engine.engine_info import ADAPTED, COMPILE_AGAIN, LOWER, UPPER
from routerretriever.errors import EngineError

Arrays = Mapping[str, NDArray[Any]]
MAX_FUSED = 4
"""Sessions with weights of their own that are kept at a time."""


def available_threads() -> int:
    """Return how many threads a session uses: one a core, or fewer if ``OMP_NUM_THREADS`` says so."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        cores = os.cpu_count() or 1
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(wanted)) if wanted.isdigit() and int(wanted) > 0 else cores


class Graph:
    """A graph that is ready to run, from any thread."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self._outputs = [output.name for output in session.get_outputs()]
        self._inputs = {node.name for node in session.get_inputs()}

    def __call__(self, inputs: Arrays) -> list[NDArray[Any]]:
        """Return all outputs."""
        given = {name: value for name, value in inputs.items() if name in self._inputs}
        outputs: list[NDArray[Any]] = self._session.run(self._outputs, given)
        return outputs


class Sessions:
    """The graphs of one engine.

    Args:
        folder: of the engine.
        threads: of each session; default those of :func:`available_threads`.
    """

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        self._folder = folder
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
                self._fused[key] = self._session(UPPER, weights())
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
                self._opened[name] = self._session(name, {})
            return self._opened[name]

    def _session(self, name: str, replaced: Arrays) -> Graph:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads or available_threads()
        # Threads of one graph that spin until there is work stand in the way of the next graph's.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        if replaced:
            values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in replaced.values()]
            options.add_external_initializers(list(replaced), values)
        path = self._folder / name
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's own kinds are many, and none of them is public
            raise EngineError(
                f"{path} cannot be run by ONNX Runtime {onnxruntime.__version__} ({error}). {COMPILE_AGAIN}"
            ) from error
        return Graph(session)
