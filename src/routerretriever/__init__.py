"""RouterRetriever: one frozen base encoder, one index, an expert for every domain."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what type checkers and editors see
    from routerretriever.collection import Collection
    from routerretriever.errors import RouterRetrieverError
    from routerretriever.evaluation import evaluate
    from routerretriever.index import Index
    from routerretriever.model import RouterRetriever
    from routerretriever.routing import Route
    from routerretriever.training import TrainingConfig, train_expert

__version__ = "0.1.0"

_EXPORTS = {
    "RouterRetriever": "model",
    "Collection": "collection",
    "TrainingConfig": "training",
    "train_expert": "training",
    "Index": "index",
    "evaluate": "evaluation",
    "RouterRetrieverError": "errors",
    "Route": "routing",
}

__all__ = [
    "Collection",
    "Index",
    "Route",
    "RouterRetriever",
    "RouterRetrieverError",
    "TrainingConfig",
    "__version__",
    "evaluate",
    "train_expert",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that ``import routerretriever`` is instant."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'routerretriever' has no attribute '{name}'")
    return getattr(import_module(f"routerretriever.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
