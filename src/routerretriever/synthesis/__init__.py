"""Queries for collections that have none.

They are made of the text itself, by a query generator, or by a language model.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what type checkers and editors see
    from routerretriever.synthesis.config import (
        Doc2QueryConfig,
        Limits,
        LlmConfig,
        SynthesisConfig,
    )
    from routerretriever.synthesis.core import synthesize
    from routerretriever.synthesis.methods import METHODS
    from routerretriever.synthesis.report import SynthesisReport

_EXPORTS = {
    "METHODS": "methods",
    "Doc2QueryConfig": "config",
    "Limits": "config",
    "LlmConfig": "config",
    "SynthesisConfig": "config",
    "SynthesisReport": "report",
    "synthesize": "core",
}

__all__ = [
    "METHODS",
    "Doc2QueryConfig",
    "Limits",
    "LlmConfig",
    "SynthesisConfig",
    "SynthesisReport",
    "synthesize",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use; the command line starts faster for it."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'routerretriever.synthesis' has no attribute '{name}'")
    return getattr(import_module(f"routerretriever.synthesis.{_EXPORTS[name]}"), name)
