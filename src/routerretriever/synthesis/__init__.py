"""Queries for collections that have none: from the text itself, a query generator, or a language model."""

from __future__ import annotations

from routerretriever.synthesis.core import WAYS, SynthesisConfig, synthesize
from routerretriever.synthesis.doc2query import Doc2QueryConfig
from routerretriever.synthesis.limits import Limits
from routerretriever.synthesis.llm import LlmConfig
from routerretriever.synthesis.report import SynthesisReport

__all__ = ["WAYS", "Doc2QueryConfig", "Limits", "LlmConfig", "SynthesisConfig", "SynthesisReport", "synthesize"]
