"""Find the layers of a base, and give their linear parts room for experts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import nn

from routerretriever.errors import ModelError
from routerretriever.lora.layers import LoraLinear, Selection

TESTED = (
    "bert",
    "roberta",
    "xlm-roberta",
    "mpnet",
    "modernbert",
    "qwen3",
    "llama",
    "mistral",
    "gemma3_text",
)
"""Architectures whose layers are known to run one by one; others are tried on texts first."""


def find_layers(body: nn.Module, head: Sequence[nn.Module]) -> nn.ModuleList:
    """Return the stack of layers of a transformer that is followed by pooling; empty for every other base.

    Layers without linear parts count for nothing: there is no room for experts in them.
    """
    if not isinstance(body, Transformer) or not head or not isinstance(head[0], Pooling):
        return nn.ModuleList()
    config: Any = body.model.config
    wanted = getattr(config, "num_hidden_layers", None)
    for module in body.model.modules():
        if not isinstance(module, nn.ModuleList) or len(module) != wanted:
            continue
        if all(any(isinstance(part, nn.Linear) for part in layer.modules()) for layer in module):
            return module
    return nn.ModuleList()


def is_tested(body: Any) -> bool:
    """Return whether a transformer is of an architecture whose layers are known to run one by one."""
    config: Any = body.model.config
    return config.model_type in TESTED


def is_causal(body: Any) -> bool:
    """Return whether a token of the transformer attends to those before it alone."""
    return any(getattr(module, "is_causal", False) for module in body.model.modules())


def chosen_layers(branch_layer: int | None, route_layer: int | None, count: int) -> tuple[int, int]:
    """Return where experts begin and where the router reads.

    Args:
        branch_layer: first layer that experts may change; ``None`` is the upper half.
        route_layer: ``None`` is the branch layer, -1 the number of layers.
        count: of layers; 0 where the base cannot be opened.

    Raises:
        ModelError: one of them is not possible with ``count`` layers.
    """
    if not count:
        if branch_layer is not None or route_layer not in (None, -1):
            raise ModelError(
                "This base has no layers that experts could change, so they change its finished vectors, and "
                "the router reads those. Leave out branch_layer and route_layer."
            )
        return 0, 0
    if branch_layer is None:
        branch_layer = count // 2
    if route_layer is None:
        route_layer = branch_layer
    if route_layer == -1:
        route_layer = count
    if not 0 <= branch_layer < count:
        raise ModelError(f"branch_layer must be within 0..{count - 1}, but is {branch_layer}.")
    if route_layer not in (branch_layer, count):
        raise ModelError(
            f"route_layer must be the branch layer ({branch_layer}: one forward pass) or "
            f"{count} (the final embedding: two passes), but is {route_layer}."
        )
    return branch_layer, route_layer


def install_adapters(
    body: Any, layers: nn.ModuleList, branch_layer: int, selection: Selection
) -> dict[str, LoraLinear]:
    """Replace the linear parts of all layers from the branch layer on.

    Args:
        body: the transformer that the layers belong to; names are counted from its model.
        layers: its stack of layers; nothing is replaced where there is none.
        branch_layer: the first layer that experts may change.
        selection: says which plan is in force.

    Returns:
        Full name → the new part, which shares the weights of the one it replaces.
    """
    if not layers:
        return {}
    prefixes = {id(module): name for name, module in body.model.named_modules()}
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
