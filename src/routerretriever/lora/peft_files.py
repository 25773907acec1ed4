"""Adapters in PEFT's files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from routerretriever.errors import ExpertError
from routerretriever.lora.adapter import Adapter

PEFT_PREFIX = "base_model.model."
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


def save_adapter(adapter: Adapter, directory: Path, *, base: str, revision: str | None) -> None:
    """Write an adapter in PEFT's format, naming the base by hub id and never by a local path.

    The same update gives the same bytes, so that versions can be told apart by their files.
    """
    from peft import LoraConfig, TaskType

    directory.mkdir(parents=True, exist_ok=True)
    smaller = {name: a.shape[0] for name, (a, _) in sorted(adapter.factors.items()) if a.shape[0] != adapter.rank}
    config = LoraConfig(
        base_model_name_or_path=base,
        revision=revision,
        task_type=TaskType.FEATURE_EXTRACTION,
        inference_mode=True,
        r=adapter.rank,
        lora_alpha=adapter.rank,  # a scaling of 1: the adapter's own goes into B, as it does when it is read
        rank_pattern=smaller,
        alpha_pattern=smaller,
        target_modules=sorted(adapter.factors),
    )
    config.save_pretrained(str(directory))
    written = json.loads((directory / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    written["target_modules"] = sorted(adapter.factors)  # PEFT keeps a set, whose order changes with the process
    (directory / ADAPTER_CONFIG).write_text(json.dumps(written, indent=2, sort_keys=True), encoding="utf-8")
    tensors: dict[str, Tensor] = {}
    for name, (a, b) in adapter.factors.items():
        tensors[f"{PEFT_PREFIX}{name}.lora_A.weight"] = a.detach().cpu().contiguous()
        tensors[f"{PEFT_PREFIX}{name}.lora_B.weight"] = (b.detach() * adapter.scaling).cpu().contiguous()
    save_file(tensors, str(directory / ADAPTER_WEIGHTS), metadata={"format": "pt"})


def read_adapter_config(directory: Path) -> dict[str, Any]:
    """PEFT's ``adapter_config.json`` as a dictionary; refuses what cannot be served."""
    path = directory / ADAPTER_CONFIG
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ExpertError(f"{directory} is not a PEFT adapter: it has no {ADAPTER_CONFIG}.") from error
    except (ValueError, UnicodeDecodeError) as error:
        raise ExpertError(f"{path} is not valid JSON ({error}). Export the adapter again.") from error
    for key, wanted in {"peft_type": ("LORA",), "use_dora": (None, False), "bias": (None, "none")}.items():
        if config.get(key) not in wanted:
            raise ExpertError(
                f"{path}: {key}={config[key]!r} is not supported; train the adapter as plain LoRA with bias='none'."
            )
    return config


def load_adapter(directory: Path, layers: Iterable[str]) -> Adapter:
    """Read a PEFT LoRA adapter and match its tensors to the layers of this base.

    Args:
        directory: holds ``adapter_config.json`` and ``adapter_model.safetensors``.
        layers: names of the linear layers that experts may change.

    Raises:
        ExpertError: the files are missing, damaged, or touch a layer that experts may not change.
    """
    config = read_adapter_config(directory)
    path = directory / ADAPTER_WEIGHTS
    try:
        tensors = load_file(str(path), backend="pread")  # a mapped file would stay in memory beside the factors
    except FileNotFoundError as error:
        raise ExpertError(
            f"{directory} has no {ADAPTER_WEIGHTS}; save the adapter with safe_serialization=True."
        ) from error
    except (SafetensorError, OSError) as error:
        raise ExpertError(f"{path} is damaged ({error}). Copy the adapter again.") from error
    known = sorted(layers, key=len, reverse=True)
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    for key, a in tensors.items():
        module, marker, _ = key.partition(".lora_A.")
        if not marker:
            continue
        name = _match_layer(module, known, directory)
        b_key = key.replace(".lora_A.", ".lora_B.")
        if b_key not in tensors:
            raise ExpertError(f"{path} is incomplete: it has {key} but not {b_key}.")
        b, scaling = tensors[b_key].float(), _scaling(config, module, a.shape[0])
        factors[name] = (a.float(), b if scaling == 1.0 else b * scaling)
    if not factors:
        raise ExpertError(f"{path} holds no LoRA factors (rank 0). Train or export the adapter again.")
    # PEFT lets every module have its own scaling, so each is folded into its B.
    return Adapter(factors, 1.0)


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


def _scaling(config: Mapping[str, Any], module: str, rank: int) -> float:
    alpha = config.get("lora_alpha", rank)
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if module.endswith(pattern):
            alpha = value
    return float(alpha) / (rank**0.5 if config.get("use_rslora") else rank)
