"""Copies of the base's layers whose products are computed in 8 bits."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from routerretriever.kernels.quantization import Int8Linear


class Int8Layers:
    """Layers in 8 bits, made when they are first asked for."""

    def __init__(self) -> None:
        self._layers: Sequence[nn.Module] | None = None

    def __reduce__(self) -> tuple[type[Int8Layers], tuple[()]]:
        return Int8Layers, ()  # a copy makes its layers itself

    def of(self, layers: Iterable[nn.Module], owner: object) -> Sequence[nn.Module]:
        """Return copies of an encoder's layers.

        Args:
            layers: of the base.
            owner: the encoder, to which the layers refer and which is not copied.

        Raises:
            ModelError: torch multiplies no integers here.
        """
        if self._layers is None:
            self._layers = [_in_int8(layer, owner) for layer in layers]
        return self._layers


def _in_int8(layer: nn.Module, owner: object) -> nn.Module:
    twin: Any = copy.deepcopy(layer, {id(owner): owner})
    del twin.forward  # the stand-in; the copy runs the layer's own
    for name, module in list(twin.named_modules()):
        if isinstance(module, nn.Linear):
            parent, _, attribute = name.rpartition(".")
            setattr(twin.get_submodule(parent), attribute, Int8Linear(module))
    # It is no part of the model, so nothing else would switch dropout off.
    evaluating: nn.Module = twin.eval()
    return evaluating
