"""The routed forward pass over one frozen base encoder."""

from routerretriever.encoder.routed_encoder import RoutedEncoder

__all__ = ["RoutedEncoder"]
