"""ONNX graphs, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from routerretriever.errors import FormatError
from routerretriever.kernels.threads import available_threads

Arrays = Mapping[str, NDArray[Any]]


class Graph:
    """A graph that is ready to run, from any thread.

    Attributes:
        inputs: name → type of each, such as ``tensor(int64)``.
        outputs: names.
    """

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self.inputs: dict[str, str] = {node.name: node.type for node in session.get_inputs()}
        self.outputs: list[str] = [output.name for output in session.get_outputs()]

    def __call__(self, inputs: Arrays, outputs: Sequence[str] | None = None) -> list[NDArray[Any]]:
        """Return outputs.

        Args:
            inputs: name → value; those that the graph does not have are left out.
            outputs: names; default all.
        """
        given = {name: value for name, value in inputs.items() if name in self.inputs}
        found: list[NDArray[Any]] = self._session.run(outputs or self.outputs, given)
        return found


def said(error: Exception) -> str:
    """Return what the runtime says, in one line."""
    return " ".join(str(error).split())


def open_graph(path: Path, threads: int | None = None, replaced: Arrays | None = None) -> Graph:
    """Open a graph on the processor.

    Args:
        path: of the file; weights that are kept outside it are beside it.
        threads: that it uses; default those of :func:`available_threads`.
        replaced: name of an initializer → the weight that takes its place.

    Raises:
        FormatError: ONNX Runtime cannot run it.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or available_threads()
    # Threads spin between two products of a graph; after its last they would stand in the way of the next graph's.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3
    if replaced:
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in replaced.values()]
        options.add_external_initializers(list(replaced), values)
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's own kinds are many, and none of them is public
        raise FormatError(
            f"{path} cannot be run by ONNX Runtime {onnxruntime.__version__} ({said(error)})."
        ) from error
    return Graph(session)
