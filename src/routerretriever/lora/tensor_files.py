"""Files of weights, read without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize

from routerretriever.errors import ExpertError

_TYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "C64": np.complex64,
    "BOOL": np.bool_,
}


def read_tensors(path: Path, *, if_missing: str, if_damaged: str) -> dict[str, NDArray[Any]]:
    """Return the tensors of a file of weights; those in bfloat16, which numpy lacks, as float32.

    Args:
        path: of the file.
        if_missing, if_damaged: what to do then, for the error.

    Raises:
        ExpertError: the file is missing or damaged, or has numbers of an unknown type.
    """
    try:
        content: list[tuple[str, dict[str, Any]]] = deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
    except FileNotFoundError as error:
        raise ExpertError(f"{path.parent} has no {path.name}. {if_missing}") from error
    except (SafetensorError, OSError) as error:
        raise ExpertError(f"{path} is damaged ({error}). {if_damaged}") from error
    return {name: _array(path, name, tensor) for name, tensor in sorted(content)}


def _array(path: Path, name: str, tensor: dict[str, Any]) -> NDArray[Any]:
    kind, data = tensor["dtype"], tensor["data"]
    if kind == "BF16":  # the upper half of a float32
        wide = np.frombuffer(data, np.uint16).astype(np.uint32) << 16
        return wide.view(np.float32).reshape(tensor["shape"])
    if kind not in _TYPES:
        raise ExpertError(
            f"{path}: '{name}' is of type {kind}, which is not read. Export the adapter in float32."
        )
    return np.frombuffer(data, _TYPES[kind]).reshape(tensor["shape"])
