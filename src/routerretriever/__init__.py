"""RouterRetriever: one frozen base encoder, one index, an expert for every domain."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from routerretriever.version import __version__

if TYPE_CHECKING:  # what type checkers and editors see
    from routerretriever.data.collection import Collection
    from routerretriever.doctor import examine
    from routerretriever.errors import RouterRetrieverError
    from routerretriever.evaluation.evaluate import evaluate
    from routerretriever.experts.add import add_expert_from
    from routerretriever.experts.check_harm import check_expert
    from routerretriever.experts.compare import diff_experts, merge_experts
    from routerretriever.experts.train import train_expert
    from routerretriever.experts.training_config import TrainingConfig
    from routerretriever.index.index import Index
    from routerretriever.model import RouterRetriever
    from routerretriever.routing.explain import Route
    from routerretriever.sharing.hub_upload import pull, push_expert, push_model
    from routerretriever.storage.history import History

_EXPORTS = {
    "RouterRetriever": "model",
    "Collection": "data.collection",
    "TrainingConfig": "experts.training_config",
    "train_expert": "experts.train",
    "Index": "index.index",
    "evaluate": "evaluation.evaluate",
    "RouterRetrieverError": "errors",
    "Route": "routing.explain",
    "History": "storage.history",
    "add_expert_from": "experts.add",
    "check_expert": "experts.check_harm",
    "diff_experts": "experts.compare",
    "examine": "doctor",
    "merge_experts": "experts.compare",
    "pull": "sharing.hub_upload",
    "push_expert": "sharing.hub_upload",
    "push_model": "sharing.hub_upload",
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
