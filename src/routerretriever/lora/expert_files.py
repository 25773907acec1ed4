"""An expert's weights on disk: LoRA factors in PEFT's format, a map beside them, or one of the two."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from routerretriever.errors import ExpertError
from routerretriever.lora.adapter import VECTOR_MAP, Adapter, Kind
from routerretriever.lora.map_files import MAP_INFO, load_map, read_map_info, save_map
from routerretriever.lora.peft_files import ADAPTER_CONFIG, load_adapter, read_adapter_config, save_adapter


def save_expert(adapter: Adapter, directory: Path, *, base: str, revision: str | None) -> None:
    """Write an adapter, naming the base by hub id and never by a local path."""
    if adapter.kind != Kind.MAP:
        save_adapter(adapter.layers, directory, base=base, revision=revision)
    if adapter.kind != Kind.LORA:
        save_map(adapter, directory, base=base, revision=revision)


def load_expert(directory: Path, layers: Iterable[str]) -> Adapter:
    """Read an adapter, whose factors are arrays.

    Args:
        directory: holds PEFT's files, those of a map, or both.
        layers: names of the linear layers that experts may change.

    Raises:
        ExpertError: the files are missing or damaged, or do not fit the layers.
    """
    factors: dict[str, Any] = {}
    if has_map(directory):
        factors[VECTOR_MAP] = load_map(directory)
    if not factors or (directory / ADAPTER_CONFIG).exists():
        factors |= load_adapter(directory, layers).factors
    return Adapter(factors, 1.0)


def has_map(directory: Path) -> bool:
    """Return whether there is a map in a folder."""
    return (directory / MAP_INFO).exists()


def is_expert(directory: Path) -> bool:
    """Return whether a folder holds an expert's weights."""
    return has_map(directory) or (directory / ADAPTER_CONFIG).exists()


def base_of(directory: Path) -> str:
    """Return the name of the base that an expert was trained for; empty where nobody noted it.

    Raises:
        ExpertError: the description is missing or damaged.
    """
    if (directory / ADAPTER_CONFIG).exists() or not has_map(directory):
        return str(read_adapter_config(directory).get("base_model_name_or_path") or "")
    named = read_map_info(directory).get("base")
    if named is not None and not isinstance(named, str):
        raise ExpertError(f"{directory / MAP_INFO} names a base that is no text. Copy the expert again.")
    return named or ""
