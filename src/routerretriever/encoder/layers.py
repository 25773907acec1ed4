"""Find the layers of a base, and give their linear parts room for experts."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from routerretriever.errors import ModelError
from routerretriever.lora.layers import LoraLinear, Selection


def find_layers(model: nn.Module) -> nn.ModuleList:
    """Return the stack of layers of a transformers encoder.

    Raises:
        ModelError: the architecture has none that can be recognised.
    """
    config: Any = model.config
    wanted = getattr(config, "num_hidden_layers", None)
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == wanted:
            return module
    raise ModelError(
        f"No stack of {wanted} layers was found in {type(model).__name__}. "
        "Supported bases are BERT, RoBERTa, XLM-RoBERTa, MPNet and ModernBERT encoders."
    )


def check_layers(branch_layer: int, route_layer: int, count: int) -> None:
    """Check where experts begin and where the router reads.

    Raises:
        ModelError: one of them is not a layer that is possible with ``count`` layers.
    """
    if not 0 <= branch_layer < count:
        raise ModelError(f"branch_layer must be within 0..{count - 1}, but is {branch_layer}.")
    if route_layer not in (branch_layer, count):
        raise ModelError(
            f"route_layer must be the branch layer ({branch_layer}: one forward pass) or "
            f"{count} (the final embedding: two passes), but is {route_layer}."
        )


def install_adapters(
    model: nn.Module, layers: nn.ModuleList, branch_layer: int, selection: Selection
) -> dict[str, LoraLinear]:
    """Replace the linear parts of all layers from the branch layer on.

    Args:
        model: that the layers belong to; names are counted from it.
        layers: its stack of layers.
        branch_layer: the first layer that experts may change.
        selection: says which plan is in force.

    Returns:
        Full name → the new part, which shares the weights of the one it replaces.
    """
    prefixes = {id(module): name for name, module in model.named_modules()}
    installed: dict[str, LoraLinear] = {}
    for layer in list(layers)[branch_layer:]:
        for name, module in list(layer.named_modules()):
            if not isinstance(module, nn.Linear):
                continue
            full_name = f"{prefixes[id(layer)]}.{name}"
            part = LoraLinear(module, full_name, selection)
            parent, _, attribute = name.rpartition(".")
            setattr(layer.get_submodule(parent), attribute, part)
            installed[full_name] = part
    return installed


def returns_tuple(layer: nn.Module, run: Any) -> bool:
    """Return whether a layer answers with a tuple (MPNet) or with a tensor (others).

    Args:
        layer: any layer of the base.
        run: runs the base on some text.
    """
    seen: list[bool] = []
    handle = layer.register_forward_hook(lambda *call: seen.append(isinstance(call[2], tuple)))
    try:
        with torch.no_grad():
            run()
    finally:
        handle.remove()
    return seen[0]
