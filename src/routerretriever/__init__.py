"""RouterRetriever: one frozen base encoder, one index, an expert for every domain."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what type checkers and editors see
    from routerretriever.additions import add_expert_from, check_expert
    from routerretriever.collection import Collection
    from routerretriever.doctor import examine
    from routerretriever.errors import RouterRetrieverError
    from routerretriever.evaluation import evaluate
    from routerretriever.history import History
    from routerretriever.hub import pull, push_expert, push_model
    from routerretriever.index import Index
    from routerretriever.model import RouterRetriever
    from routerretriever.routing import Route
    from routerretriever.training import TrainingConfig, train_expert
    from routerretriever.updates import diff_experts, merge_experts

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
    "History": "history",
    "add_expert_from": "additions",
    "check_expert": "additions",
    "diff_experts": "updates",
    "examine": "doctor",
    "merge_experts": "updates",
    "pull": "hub",
    "push_expert": "hub",
    "push_model": "hub",
}

__all__ = [
    "Collection",
    "History",
    "Index",
    "Route",
    "RouterRetriever",
    "RouterRetrieverError",
    "TrainingConfig",
    "__version__",
    "add_expert_from",
    "check_expert",
    "diff_experts",
    "evaluate",
    "examine",
    "merge_experts",
    "pull",
    "push_expert",
    "push_model",
    "train_expert",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that ``import routerretriever`` is instant."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'routerretriever' has no attribute '{name}'")
    return getattr(import_module(f"routerretriever.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
