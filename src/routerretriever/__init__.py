"""RouterRetriever: one frozen base encoder, one index, an expert for every domain."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from routerretriever.extras import of_training
from routerretriever.version import __version__

if TYPE_CHECKING:  # what type checkers and editors see
    from routerretriever import cluster, integrations, server
    from routerretriever.compiling import compile_model
    from routerretriever.data.collection import Collection
    from routerretriever.data.document import Document
    from routerretriever.doctor import diagnose
    from routerretriever.errors import RouterRetrieverError
    from routerretriever.evaluation.evaluate import Evaluation, evaluate
    from routerretriever.experts.add import add_expert
    from routerretriever.experts.check_harm import check_expert
    from routerretriever.experts.combine import merge_experts
    from routerretriever.experts.compare import diff_experts
    from routerretriever.experts.train import train_expert
    from routerretriever.experts.training_config import TrainingConfig
    from routerretriever.feedback import apply_feedback
    from routerretriever.index.index import Index
    from routerretriever.index.parameters import SearchParameters
    from routerretriever.index.search import Hit
    from routerretriever.model import RouterRetriever
    from routerretriever.opening import open_model
    from routerretriever.reranking.reranker import Reranker
    from routerretriever.routing.explain import Route
    from routerretriever.sharing.hub_upload import pull, push_expert, push_model
    from routerretriever.storage.history import History
    from routerretriever.synthesis import SynthesisConfig, synthesize

_MODULE_OF = {
    "RouterRetriever": "model",
    "Collection": "data.collection",
    "Document": "data.document",
    "TrainingConfig": "experts.training_config",
    "train_expert": "experts.train",
    "Index": "index.index",
    "Hit": "index.search",
    "SearchParameters": "index.parameters",
    "Reranker": "reranking.reranker",
    "Route": "routing.explain",
    "evaluate": "evaluation.evaluate",
    "Evaluation": "evaluation.evaluate",
    "add_expert": "experts.add",
    "check_expert": "experts.check_harm",
    "diff_experts": "experts.compare",
    "merge_experts": "experts.combine",
    "diagnose": "doctor",
    "History": "storage.history",
    "push_model": "sharing.hub_upload",
    "push_expert": "sharing.hub_upload",
    "pull": "sharing.hub_upload",
    "synthesize": "synthesis",
    "SynthesisConfig": "synthesis",
    "apply_feedback": "feedback",
    "compile_model": "compiling",
    "open_model": "opening",
    "RouterRetrieverError": "errors",
}
_SUBPACKAGES = ("cluster", "integrations", "server")

__all__ = [
    "Collection",
    "Document",
    "Evaluation",
    "History",
    "Hit",
    "Index",
    "Reranker",
    "Route",
    "RouterRetriever",
    "RouterRetrieverError",
    "SearchParameters",
    "SynthesisConfig",
    "TrainingConfig",
    "__version__",
    "add_expert",
    "apply_feedback",
    "check_expert",
    "cluster",
    "compile_model",
    "diagnose",
    "diff_experts",
    "evaluate",
    "integrations",
    "merge_experts",
    "open_model",
    "pull",
    "push_expert",
    "push_model",
    "server",
    "synthesize",
    "train_expert",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that ``import routerretriever`` is instant."""
    if name in _SUBPACKAGES:
        return import_module(f"routerretriever.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'routerretriever' has no attribute '{name}'")
    with of_training():
        return getattr(import_module(f"routerretriever.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
