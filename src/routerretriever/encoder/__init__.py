"""The routed forward pass over one frozen base encoder."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from routerretriever.encoder.routed_encoder import RoutedEncoder

__all__ = ["RoutedEncoder"]


def __getattr__(name: str) -> Any:
    """Import the encoder when it is asked for: parts of this folder do without torch."""
    if name != "RoutedEncoder":
        raise AttributeError(f"module 'routerretriever.encoder' has no attribute '{name}'")
    return import_module("routerretriever.encoder.routed_encoder").RoutedEncoder
