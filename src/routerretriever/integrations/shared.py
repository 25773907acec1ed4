"""What the integrations have in common; it knows none of the frameworks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from routerretriever.encoder.served_model import ServedModel
from routerretriever.errors import VectorIndexError
from routerretriever.index.index import Index
from routerretriever.index.search import Hit
from routerretriever.opening import open_model
from routerretriever.routing.candidates import ROUTED


def opened_model(model: ServedModel | str | Path, device: str | None = None) -> ServedModel:
    """Return a model, or load the one saved at a path or on the hub.

    Raises:
        FormatError: there is none.
    """
    if isinstance(model, str | Path):
        return open_model(model, device=device)
    return model


def opened_index(index: Index | str | Path, model: ServedModel | str | Path | None = None) -> Index:
    """Return an index, or open the one in a folder; without ``model`` it loads the one it was made with.

    Raises:
        VectorIndexError: there is none, or an opened index is given with another model.
        FingerprintError: it was made with another base.
    """
    if isinstance(index, Index):
        if model is not None and model is not index.model:
            raise VectorIndexError(
                "This index is open and has a model. Give its path with the other model, or leave out the model."
            )
        return index
    if model is None:
        return Index.open(index)
    return Index.open(index, opened_model(model))


def pinned(model: ServedModel, expert: str | None) -> str | None:
    """Return the candidate to pin, or ``None`` to route.

    Raises:
        ExpertError: there is no such candidate.
    """
    if expert in (None, ROUTED):
        return None
    model.state.column(str(expert))
    return expert


def query_vector(model: ServedModel, query: str, expert: str | None) -> tuple[list[float], str]:
    """Return a query's vector (d,) as plain numbers, and what encoded it."""
    encoded = model.encode_routed([query], [pinned(model, expert)])
    return encoded.vectors[0].tolist(), encoded.experts[0]


def document_vectors(model: ServedModel, texts: Sequence[str]) -> list[list[float]]:
    """Return the base's vectors (n, d) of texts as plain numbers."""
    vectors: list[list[float]] = model.encode_in_bulk(list(texts)).tolist()
    return vectors


def described(hit: Hit, expert: str | None) -> dict[str, Any]:
    """Return the metadata of a result: the document's own, its title and collection, and what encoded the query.

    Of a passage also its number, characters, heading and page. They replace fields of the document that
    have the same names.
    """
    own: dict[str, Any] = {"title": hit.title, "collection": hit.collection, "expert": expert}
    if hit.passage is not None:
        own |= {f"passage_{name}": value for name, value in asdict(hit.passage).items()}
    return {**hit.metadata, **own}
