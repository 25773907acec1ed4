"""Check what a server was told, before it answers anybody."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from routerretriever.errors import FilterError, ServerError
from routerretriever.index.index import Index
from routerretriever.routing.pilot_files import load_pilots
from routerretriever.routing.pilot_library import PilotLibrary
from routerretriever.server.key_file import Key
from routerretriever.server.open_spans import open_spans
from routerretriever.server.settings import Settings
from routerretriever.storage.model_folder import read_model_info


def check_settings(settings: Settings) -> None:
    """Check keys, tracing and shadow of a server that is not loaded yet.

    Raises:
        ServerError: a key names an expert or collection that does not exist, or its filter cannot be used; or
            the expert in the shadow cannot be routed to.
        MissingExtraError: spans are asked for, and the ``tracing`` extra is not installed.
    """
    open_spans(settings).close()
    if not settings.keys and settings.shadow is None:
        return
    info = read_model_info(settings.model)
    library = None if info["policy"] is None else load_pilots(settings.model)[0]
    if settings.keys:
        index = None if settings.index is None else Index.open(settings.index)
        pilots = library.collections() if library else ()
        check_keys(settings.keys, experts=info["experts"], pilots=pilots, index=index)
    if settings.shadow is not None:
        check_shadow(settings, experts=tuple(info["experts"]), library=library)


def check_shadow(settings: Settings, *, experts: tuple[str, ...], library: PilotLibrary | None) -> None:
    """Check that the expert in the shadow exists, and that a query can be routed to it.

    Raises:
        ServerError: it does not, or there is no index to search.
    """
    name = settings.shadow
    if name not in experts:
        known = ", ".join(experts) or "none"
        raise ServerError(
            f"--shadow needs an expert of the model, and '{name}' is none. Its experts: {known}. Add it first: "
            f"routerretriever experts add {settings.model} FOLDER"
        )
    if library is None or not np.isfinite(library.gains[:, library.experts.index(name)]).any():
        raise ServerError(
            f"Nothing is routed to the expert '{name}', because its gain was not measured, so nothing would "
            "change. Measure it: routerretriever library MODEL COLLECTION…"
        )
    if settings.index is None:
        raise ServerError("--shadow compares searches, and there is no index. Give --index INDEX.")


def check_keys(
    keys: Sequence[Key],
    *,
    experts: Collection[str],
    pilots: Collection[str],
    index: Index | None,
) -> None:
    """Check keys against what there is.

    Args:
        keys: with scopes.
        experts: names of the model's.
        pilots: collections that pilots come from.
        index: that is searched, if there is one.

    Raises:
        ServerError: a key names an expert or collection that does not exist, or its filter cannot be used.
    """
    for key in keys:
        _check_experts(key, experts)
        _check_collections(key, pilots, index)
        _check_filter(key, index)


def _check_experts(key: Key, experts: Collection[str]) -> None:
    for name in key.experts:
        if name not in experts:
            known = ", ".join(experts) or "none"
            raise ServerError(
                f"{_named(key)} may use the expert '{name}', which the model does not have. Its experts: {known}. "
                "List one that comes later under new_experts."
            )


def _check_collections(key: Key, pilots: Collection[str], index: Index | None) -> None:
    for name in key.collections:
        if name in pilots or (index is not None and index.count({"collection": name})):
            continue
        raise ServerError(
            f"{_named(key)} may use the collection '{name}', of which there are neither documents nor pilots. "
            "List one that comes later under new_collections."
        )


def _check_filter(key: Key, index: Index | None) -> None:
    if key.access.filter is None:
        return
    if index is None:
        raise ServerError(
            f"{_named(key)} has a filter, but there is no index. Leave it out, or give --index."
        )
    try:
        index.count(key.access.where())
    except FilterError as error:
        raise ServerError(f"{_named(key)} has a filter that cannot be used: {error}") from error


def _named(key: Key) -> str:
    return f"{key.source}: the key '{key.access.name}'"
