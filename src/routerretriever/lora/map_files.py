"""The map of an expert on disk: its two factors, and a few words about them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from routerretriever.errors import ExpertError
from routerretriever.lora.adapter import VECTOR_MAP, Adapter, as_array
from routerretriever.lora.tensor_files import read_tensors

MAP_INFO = "map.json"
MAP_WEIGHTS = "map.safetensors"
MAP_FORMAT = 1
_A, _B = "A", "B"


def save_map(adapter: Adapter, directory: Path, *, base: str, revision: str | None) -> None:
    """Write the map of an adapter, its scaling multiplied into B; the same map gives the same bytes."""
    directory.mkdir(parents=True, exist_ok=True)
    a, b = adapter.factors[VECTOR_MAP]
    tensors = {_A: as_array(a), _B: as_array(b * adapter.scaling)}
    save_file(tensors, directory / MAP_WEIGHTS, metadata={"format": "pt"})
    info = {
        "format_version": MAP_FORMAT,
        "formula": "q' = q + B A q",
        "base": base,
        "revision": revision,
        "dimension": b.shape[0],
        "rank": a.shape[0],
    }
    (directory / MAP_INFO).write_text(json.dumps(info, indent=2, sort_keys=True), encoding="utf-8")


def read_map_info(directory: Path) -> dict[str, Any]:
    """Return the content of ``map.json``.

    Raises:
        ExpertError: it is damaged, or of a newer format.
    """
    path = directory / MAP_INFO
    try:
        info: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExpertError(f"{path} cannot be read ({error}). Copy the expert again.") from error
    if not isinstance(info, dict) or not isinstance(info.get("format_version"), int):
        raise ExpertError(f"{path} does not describe a map. Copy the expert again.")
    if info["format_version"] > MAP_FORMAT:
        raise ExpertError(
            f"{path} has format {info['format_version']}; this version reads up to {MAP_FORMAT}. "
            "Upgrade routerretriever."
        )
    return info


def load_map(directory: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the factors of a map: A (r, d) and B (d, r), in fp32.

    Raises:
        ExpertError: the files are missing or damaged, or do not belong together.
    """
    info, path = read_map_info(directory), directory / MAP_WEIGHTS
    tensors = read_tensors(path, if_missing="Copy the expert again.", if_damaged="Copy the expert again.")
    if set(tensors) != {_A, _B}:
        raise ExpertError(f"{path} holds {', '.join(sorted(tensors))} instead of the factors A and B.")
    a, b = as_array(tensors[_A]), as_array(tensors[_B])
    rank, dimension = info.get("rank"), info.get("dimension")
    if tuple(a.shape) != (rank, dimension) or tuple(b.shape) != (dimension, rank):
        raise ExpertError(
            f"{path} has factors of {tuple(a.shape)} and {tuple(b.shape)}, but {MAP_INFO} says rank {rank} "
            f"and dimension {dimension}. Copy the expert again."
        )
    return a, b
