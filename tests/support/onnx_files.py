"""Bases as ONNX files, as exporters write them."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModel

SETTINGS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "config.json",
    "modules.json",
    "1_Pooling",
    "2_Normalize",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
)


class _Traced(nn.Module):
    def __init__(self, model: nn.Module, part: Any = None) -> None:
        super().__init__()
        self.model, self.part = model, part

    def forward(self, input_ids, attention_mask, token_type_ids=None):
        given = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask, **given).last_hidden_state
        return hidden if self.part is None else self.part(hidden, attention_mask)


def export_onnx(source: Path, folder: Path, *, name="model.onnx", part=None, **options) -> Path:
    """Export a transformer with the files around it, as Optimum does.

    ``part`` makes something else of the hidden states; ``output``, ``types`` and ``axes`` change the graph's
    signature, ``outside`` puts the weights beside it.
    """
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    for setting in SETTINGS:
        if (source / setting).is_dir():
            shutil.copytree(source / setting, folder / setting)
        elif (source / setting).exists():
            shutil.copyfile(source / setting, folder / setting)
    inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if options.get("types") else [])]
    output = options.get("output", "last_hidden_state")
    axes: dict[str, Any] = {key: {0: "n", 1: "t"} for key in (*inputs, output)}
    model = AutoModel.from_pretrained(source, attn_implementation="eager").eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracer
        torch.onnx.export(
            _Traced(model, part).eval(),
            tuple(torch.ones(2, 7, dtype=torch.int64) for _ in inputs),
            str(folder / name),
            input_names=options.get("names", inputs),
            output_names=[output],
            dynamic_axes=axes if options.get("axes", True) else None,
            opset_version=17,
            dynamo=False,
        )
    if options.get("outside"):
        import onnx

        graph = onnx.load(folder / name)
        onnx.save(graph, folder / name, save_as_external_data=True, location="weights.bin", size_threshold=64)
    return folder


def set_pooling(folder: Path, dimension: int, mode: str = "mean") -> None:
    """Write the file that says how vectors of tokens are pooled."""
    (folder / "1_Pooling").mkdir()
    content = {"embedding_dimension": dimension, "pooling_mode": mode}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(content))
