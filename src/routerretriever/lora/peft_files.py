"""Adapters in PEFT's files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from routerretriever.errors import ExpertError
from routerretriever.lora.adapter import Adapter, as_array
from routerretriever.lora.peft_options import PeftOptions, check_options
from routerretriever.lora.tensor_files import read_tensors

PEFT_PREFIX = "base_model.model."
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_OTHER_FACTOR = {"lora_A": "lora_B", "lora_B": "lora_A"}
_USUAL = {
    "peft_type": "LORA",
    "task_type": "FEATURE_EXTRACTION",
    "bias": "none",
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "lora_dropout": 0.0,
    "use_rslora": False,
}
"""What PEFT writes for plain LoRA; it has defaults for what is not named."""


def save_adapter(adapter: Adapter, directory: Path, *, base: str, revision: str | None) -> None:
    """Write an adapter in PEFT's format, naming the base by hub id and never by a local path.

    The same delta gives the same bytes, so that versions can be told apart by their files.
    """
    directory.mkdir(parents=True, exist_ok=True)
    smaller: dict[str, int] = {}
    for name, (a, _) in sorted(adapter.factors.items()):
        if a.shape[0] != adapter.rank:
            smaller[name] = a.shape[0]
    config = {
        **_USUAL,
        "base_model_name_or_path": base,
        "revision": revision,
        "r": adapter.rank,
        "lora_alpha": adapter.rank,  # a scaling of 1: the adapter's own goes into B, as it does when it is read
        "rank_pattern": smaller,
        "alpha_pattern": smaller,
        "target_modules": sorted(adapter.factors),
    }
    (directory / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
    tensors: dict[str, NDArray[np.float32]] = {}
    for name, (a, b) in adapter.factors.items():
        tensors[f"{PEFT_PREFIX}{name}.lora_A.weight"] = as_array(a)
        tensors[f"{PEFT_PREFIX}{name}.lora_B.weight"] = as_array(b * adapter.scaling)
    save_file(tensors, directory / ADAPTER_WEIGHTS, metadata={"format": "pt"})


def read_adapter_config(directory: Path) -> dict[str, Any]:
    """Return the content of PEFT's ``adapter_config.json``.

    Raises:
        ExpertError: it is missing or damaged, or has an option that experts cannot have.
    """
    path = directory / ADAPTER_CONFIG
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ExpertError(f"{directory} is not a PEFT adapter: it has no {ADAPTER_CONFIG}.") from error
    except OSError as error:
        raise ExpertError(f"{path} cannot be read ({error}). Copy the adapter again.") from error
    except (ValueError, UnicodeDecodeError) as error:
        raise ExpertError(f"{path} is not valid JSON ({error}). Export the adapter again.") from error
    if not isinstance(config, dict):
        raise ExpertError(f"{path} is not a JSON object. Export the adapter again.")
    check_options(config, path)
    return config


def load_adapter(directory: Path, layers: Iterable[str]) -> Adapter:
    """Read a PEFT LoRA adapter, as arrays, and match its tensors to the layers of this base.

    Args:
        directory: holds ``adapter_config.json`` and ``adapter_model.safetensors``.
        layers: names of the linear layers that experts may change.

    Raises:
        ExpertError: the files are missing or damaged, change a layer that experts may not change,
            or do more than LoRA on linear layers.
    """
    options = PeftOptions(read_adapter_config(directory), directory / ADAPTER_CONFIG)
    path = directory / ADAPTER_WEIGHTS
    tensors = read_tensors(
        path,
        if_missing="Save the adapter with PEFT's safe_serialization=True.",
        if_damaged="Copy the adapter again.",
    )
    known = sorted(layers, key=len, reverse=True)
    factors: dict[str, Any] = {}
    for module in _modules(tensors, path):
        name = _match_layer(module, known, directory)
        if name in factors:
            raise ExpertError(f"{path} changes the layer '{name}' twice. Export the adapter again.")
        a = as_array(tensors[f"{module}.lora_A.weight"])
        b = as_array(tensors[f"{module}.lora_B.weight"])
        scaling = options.scaling(module.removeprefix(PEFT_PREFIX), a.shape[0])
        if scaling != 1.0:
            b = b * scaling
        factors[name] = (a, b)
    if not factors:
        raise ExpertError(f"{path} holds no LoRA factors (rank 0). Train or export the adapter again.")
    # PEFT lets every module have its own scaling, so each is folded into its B.
    return Adapter(factors, 1.0)


def _modules(tensors: Mapping[str, NDArray[Any]], path: Path) -> list[str]:
    """Return the modules that have factors; every tensor must be one of a pair."""
    modules: list[str] = []
    for key, tensor in tensors.items():
        module, factor = key.removesuffix(".weight").rpartition(".")[::2]
        if factor not in _OTHER_FACTOR or not key.endswith(".weight"):
            raise ExpertError(
                f"{path} holds '{key}', which is no LoRA factor of a linear layer. Experts change "
                "linear layers alone, not embeddings, biases or whole modules: train the adapter as "
                "plain LoRA."
            )
        if tensor.ndim != 2 or not np.issubdtype(tensor.dtype, np.floating):
            raise ExpertError(
                f"{path}: '{key}' is of type {tensor.dtype} and shape {tensor.shape}. A LoRA factor is a "
                "matrix of floating-point numbers: export the adapter again."
            )
        other = f"{module}.{_OTHER_FACTOR[factor]}.weight"
        if other not in tensors:
            raise ExpertError(f"{path} is incomplete: it has {key} but not {other}.")
        if factor == "lora_A":
            modules.append(module)
    return modules


def _match_layer(module: str, known: Sequence[str], directory: Path) -> str:
    name = module.removeprefix(PEFT_PREFIX)
    for candidate in known:
        # Checkpoints of task models carry the encoder below a prefix such as "bert.".
        if name == candidate or name.endswith("." + candidate):
            return candidate
    raise ExpertError(
        f"The adapter in {directory} changes '{name}', which is not a linear layer that experts of "
        "this model may change. Either it belongs to another base, or it reaches below the model's "
        "branch layer: then create the model with a lower branch layer (branch_layer=0 allows all)."
    )
