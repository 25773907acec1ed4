"""A base of two encoders: one for documents, and an aligned one for queries."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router
from torch import nn

from routerretriever.encoder.alignment import check_aligned
from routerretriever.encoder.document_methods import document_prompt_of
from routerretriever.encoder.routed_encoder import RoutedEncoder
from routerretriever.errors import ModelError

QUERY, DOCUMENT = "query", "document"


class Sides(NamedTuple):
    """The modules of a base.

    Attributes:
        queries: encode queries.
        documents: encode documents; ``None`` where those of queries do.
    """

    queries: Sequence[nn.Module]
    documents: Sequence[nn.Module] | None


def sides_of(base: str, plain: SentenceTransformer, queries: SentenceTransformer | None) -> Sides:
    """Divide a base into what encodes queries and what encodes documents.

    Args:
        base: its name, for messages.
        plain: the base.
        queries: the base of queries, if they have one of their own.

    Raises:
        ModelError: its Router has other routes than these two, or is not the first module, or queries have a
            base of their own as well.
    """
    modules = list(plain)
    is_router = isinstance(modules[0], Router)
    if any(isinstance(module, Router) for module in modules[1:]):
        raise ModelError(f"The base '{base}' has a Router after other modules. Use one that begins with it.")
    if queries is None:
        return _routes(base, modules) if is_router else Sides(modules, None)
    if is_router or any(isinstance(module, Router) for module in queries):
        raise ModelError(
            f"'{base}' or its query base has a Router, which holds encoders of queries and documents itself. Give it "
            "as the base alone, without a query base."
        )
    if plain.default_prompt_name in plain.prompts:
        raise ModelError(
            f"The base '{base}' puts the prompt '{plain.default_prompt_name}' before all texts (default_prompt_name), "
            "so queries of another encoder would get it, too. Name it 'document' in a copy's "
            "config_sentence_transformers.json, and remove default_prompt_name."
        )
    return Sides(list(queries), modules)


def _routes(base: str, modules: Sequence[nn.Module]) -> Sides:
    router, *rest = modules
    assert isinstance(router, Router)
    routes: dict[str, Any] = dict(router.sub_modules.items())
    if set(routes) != {QUERY, DOCUMENT} or router.route_mappings:
        raise ModelError(
            f"The Router of the base '{base}' has the routes {', '.join(routes)}; only {QUERY} and {DOCUMENT} are "
            "known here. Use one of its encoders as the base."
        )
    # Both sides change what is theirs, so they share no module.
    return Sides([*routes[QUERY], *rest], copy.deepcopy([*routes[DOCUMENT], *rest]))


def pair_prompts(plain: SentenceTransformer, queries: SentenceTransformer | None) -> dict[str, str | None]:
    """Return the prompts of a base: with another one for queries, that one's prompt of queries alone."""
    if queries is None:
        return dict(plain.prompts)
    prompts = {name: prompt for name, prompt in plain.prompts.items() if name != QUERY}
    if QUERY in queries.prompts:
        prompts[QUERY] = queries.prompts[QUERY]
    return prompts


def pair_up(queries: RoutedEncoder, documents: RoutedEncoder, prompts: Mapping[str, str]) -> None:
    """Let one encoder keep the queries and another one take the documents.

    Raises:
        ModelError: their vectors are not in one space.
    """
    aligned = check_aligned(queries, documents, prompts.get(QUERY), document_prompt_of(prompts))
    queries.pair_with(documents, aligned)
