"""Adapters made with PEFT alone, and what PEFT makes of them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModel

WEIGHTS = "adapter_model.safetensors"


def peft_adapter(
    path: Path, base_path: Path, base_name: str = "tiny", *, embeddings=False, **options
) -> Path:
    """An adapter of random weights, by default in the query and value layers 2 and 3."""
    defaults = {"target_modules": ["query", "value"], "layers_to_transform": [2, 3], "r": 4}
    base = AutoModel.from_pretrained(base_path)
    base.config._name_or_path = base.name_or_path = base_name
    torch.manual_seed(1)
    model = get_peft_model(base, LoraConfig(**(defaults | options)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2)
    model.save_pretrained(str(path), save_embedding_layers=embeddings)
    return path


def peft_vectors(folder: Path, base_path: Path, features) -> torch.Tensor:
    """Mean-pooled vectors of PEFT's own forward pass."""
    model = PeftModel.from_pretrained(AutoModel.from_pretrained(base_path), str(folder)).eval()
    mask = features["attention_mask"][..., None]
    with torch.inference_mode():
        hidden = model(input_ids=features["input_ids"], attention_mask=features["attention_mask"])
    return (hidden.last_hidden_state * mask).sum(1) / mask.sum(1)


def rewrite_options(folder: Path, **changes) -> None:
    """Set options in an adapter's configuration; ``...`` removes one."""
    path = folder / "adapter_config.json"
    options = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in options.items() if value is not ...}))


def change_tensors(folder: Path, change) -> None:
    """Write the adapter's tensors after ``change`` was applied to their dictionary."""
    tensors = load_file(folder / WEIGHTS)
    save_file(change(tensors), folder / WEIGHTS, metadata={"format": "pt"})
