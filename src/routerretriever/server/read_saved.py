"""Read a saved model whose folder other processes may replace meanwhile."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from routerretriever.encoder.served_model import ServedModel
from routerretriever.errors import ModelError, RouterRetrieverError, StorageError
from routerretriever.expert_state import ExpertState
from routerretriever.lora.adapter import Adapter, as_array
from routerretriever.opening import open_model
from routerretriever.storage.atomic import remove_leftovers
from routerretriever.storage.hub_download import is_download
from routerretriever.storage.locks import changing
from routerretriever.storage.model_folder import (
    check_fingerprint,
    read_model_info,
    read_state,
)
from routerretriever.storage.saved_version import SavedVersion

_ATTEMPTS = 10  # at reading a folder that is replaced meanwhile


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Saved:
    """Experts and pilots as they are on disk.

    Attributes:
        version: that was read.
        state: experts, infos and policy; the adapters at hand where they are unchanged.
        fresh: names of the experts that are new or changed.
    """

    version: SavedVersion
    state: ExpertState
    fresh: tuple[str, ...]


def load_model(
    folder: Path, *, engine: str, device: str | None, threads: int
) -> tuple[ServedModel, SavedVersion | None]:
    """Load a model.

    Args:
        folder: of the model.
        engine: ``auto``, ``torch`` or ``onnx``.
        device: torch device; default the best one present.
        threads: that one batch of a compiled engine uses.

    Returns:
        The model, and a version that is not newer than what was read.

    Raises:
        ModelError, ExpertError: it cannot be used.
    """
    if not is_download(folder):  # the hub's client wants no file of ours in its cache, and nobody saves there
        with suppress(StorageError), changing(folder, seconds=0):  # else another process is saving
            remove_leftovers(folder)
    for _ in range(_ATTEMPTS):
        version = SavedVersion.of(folder)
        try:
            return open_model(folder, engine=engine, device=device, threads=threads), version
        except (RouterRetrieverError, OSError):
            if SavedVersion.of(folder) == version:
                raise
    raise StorageError(
        f"The model in {folder} is replaced again and again while it is read. Try again later."
    )


def read_saved(folder: Path, model: ServedModel) -> Saved:
    """Read experts and pilots of one version of a saved model.

    Raises:
        ModelError, ExpertError: they cannot be used with the base at hand.
        StorageError: it changes faster than it can be read.
    """
    for _ in range(_ATTEMPTS):
        version = SavedVersion.of(folder)
        try:
            saved = _read(folder, model, version) if version is not None else None
        except (RouterRetrieverError, OSError):
            if SavedVersion.of(folder) == version:
                raise
            continue
        if saved is not None and SavedVersion.of(folder) == version:  # else it is of two versions
            return saved
    raise StorageError(
        f"The model in {folder} was removed, or is replaced again and again while it is being read. Try again later."
    )


def _read(folder: Path, model: ServedModel, version: SavedVersion) -> Saved:
    info = read_model_info(folder)
    check_fingerprint(model.base_fingerprint, info["base"]["fingerprint"], f"The files in {folder}")
    layout = dict(model.layout)
    if {key: info[key] for key in layout} != layout:
        raise ModelError(f"The model in {folder} has other layers for its experts now. Restart the server.")
    state = read_state(folder, info, model.layer_shapes, model.base_fingerprint)
    at_hand = model.state.experts
    experts: dict[str, Adapter] = {}
    fresh: list[str] = []
    for name, adapter in state.experts.items():
        if name in at_hand and _same(adapter, at_hand[name]):
            experts[name] = at_hand[name]
        else:
            experts[name] = adapter
            fresh.append(name)
    return Saved(version=version, state=replace(state, experts=experts), fresh=tuple(fresh))


def _same(read: Adapter, present: Adapter) -> bool:
    """Return whether two adapters do the same; reading folds an adapter's scaling into its B."""
    if read.factors.keys() != present.factors.keys():
        return False
    for name, (a, b) in read.factors.items():
        other_a, other_b = (as_array(factor) for factor in present.factors[name])
        if not np.array_equal(a, other_a):
            return False
        if not np.allclose(b * read.scaling, other_b * present.scaling, rtol=1e-6, atol=0.0):
            return False
    return True
