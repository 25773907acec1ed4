"""Graphs in 8 bits: weights with a scale for each column, hidden states with a scale for each token.

ONNX Runtime's dynamic quantisation gives a batch of hidden states one scale, so that a query's vector would depend on
the queries beside it, and one large number costs all of them their precision. Here every token has its own.

The projections of attention's values stay in fp32: they are a tenth of the work, and half of what 8 bits change.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from routerretriever.engine.graph_files import write_optimised

_LEVELS = 127
_ZERO = 128  # of unsigned numbers, which processors multiply by signed ones
_TINY = 1e-12  # scale of a token that is zero everywhere
_VALUES = frozenset(("value", "v_proj", "v_lin", "v"))  # as transformers names these projections


def write_eight_bits(graph: Path, target: Path, scratch: Path) -> None:
    """Write a graph with its weights in 8 bits.

    Products of two inputs, such as attention and the factors of experts, stay as they are.

    Args:
        graph: in fp32, with its weights in files beside it.
        target: file of the new graph; its weights come into ``NAME.bin`` beside it.
        scratch: folder for what is needed meanwhile.
    """
    raw = scratch / f"eight-bits-{graph.name}"
    with _without_advice():
        quantize_dynamic(
            graph,
            raw,
            per_channel=True,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul", "Gemm"],
            nodes_to_exclude=_value_projections(graph),
        )
    model = onnx.load(raw)
    _ByToken(model).rewrite()
    onnx.save(model, raw)
    write_optimised(raw, target)
    raw.unlink()


def _value_projections(graph: Path) -> list[str]:
    """Return the names of the products that give attention its values."""
    nodes = onnx.load(graph, load_external_data=False).graph.node
    return [node.name for node in nodes if not _VALUES.isdisjoint(node.name.split("/"))]


class _ByToken:
    """Gives the hidden states of a quantised graph a scale for each token."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        self._token_scales: dict[str, str] = {}  # scale of a batch → scales of its tokens
        self._zeros: set[str] = set()  # zero points of batches
        self._products: dict[str, str] = {}  # scales of a product → scales of its tokens

    def rewrite(self) -> None:
        """Change the graph in place.

        A product is ``integers × (scale of the batch × scales of the columns)``. The scale of the batch becomes 1, so
        that ONNX Runtime still runs the product as one kernel, and the scales of the tokens are applied after it.
        """
        self._constant("token/levels", np.array(1 / _LEVELS, np.float32))
        self._constant("token/tiny", np.array(_TINY, np.float32))
        self._constant("token/one", np.array(1, np.float32))
        self._constant("token/zero", np.array(_ZERO, np.uint8))
        nodes = [node for old in list(self._graph.node) for node in self._rewritten(old)]
        del self._graph.node[:]
        self._graph.node.extend(nodes)

    def _rewritten(self, node: NodeProto) -> Iterator[NodeProto]:
        if node.op_type == "DynamicQuantizeLinear":
            yield from self._quantised(node)
            return
        for place, name in enumerate(node.input):
            if name in self._zeros:
                node.input[place] = "token/zero"
        if node.op_type != "Mul":
            yield node
            return
        scales = [self._token_scales[name] for name in node.input if name in self._token_scales]
        if scales:
            self._products[node.output[0]] = scales[0]
            for place, name in enumerate(node.input):
                if name in self._token_scales:
                    node.input[place] = "token/one"
        of_tokens = [self._products[name] for name in node.input if name in self._products]
        if not of_tokens:
            yield node
            return
        result = node.output[0]
        node.output[0] = f"{result}/unscaled"
        yield node
        yield helper.make_node("Mul", [node.output[0], of_tokens[0]], [result])

    def _quantised(self, node: NodeProto) -> Iterator[NodeProto]:
        """Yield what turns hidden states (n, t, d) into unsigned numbers, with scales (n, t, 1)."""
        states = node.input[0]
        integers, scale, zero = node.output
        name = f"{states}/token"
        self._token_scales[scale] = f"{name}/scale"
        self._zeros.add(zero)
        yield helper.make_node("Abs", [states], [f"{name}/size"])
        yield helper.make_node("ReduceMax", [f"{name}/size"], [f"{name}/largest"], axes=[-1], keepdims=1)
        yield helper.make_node("Mul", [f"{name}/largest", "token/levels"], [f"{name}/step"])
        yield helper.make_node("Max", [f"{name}/step", "token/tiny"], [f"{name}/scale"])
        yield helper.make_node("Div", [states, f"{name}/scale"], [f"{name}/levels"])
        yield helper.make_node("QuantizeLinear", [f"{name}/levels", "token/one", "token/zero"], [integers])

    def _constant(self, name: str, value: NDArray[np.generic]) -> None:
        self._graph.initializer.append(numpy_helper.from_array(value, name))


@contextmanager
def _without_advice() -> Iterator[None]:
    """Hide the advice to prepare the graph first, which the exporter has done."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
