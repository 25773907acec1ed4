"""The base alone as one graph of ONNX Runtime, with pooling inside: what one would serve without experts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from routerretriever.kernels.vectors import Vectors

GRAPH, GRAPH_INT8, TOKENIZER = "model.onnx", "int8.onnx", "tokenizer.json"
MOST_TOKENS = 256


class PlainBase:
    """A graph that :func:`export_plain` wrote, with its tokeniser; needs no torch.

    Args:
        folder: of both.
        threads: of the graph.
        graph: name of its file.
    """

    def __init__(self, folder: Path, threads: int, graph: str = GRAPH) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Threads that spin after a run would take the processor from whoever is measured next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self.session = onnxruntime.InferenceSession(
            str(folder / graph), options, providers=["CPUExecutionProvider"]
        )
        self.tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        self.tokenizer.enable_truncation(MOST_TOKENS)
        self.tokenizer.enable_padding()

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return vectors (n, d) of one batch."""
        found = self.tokenizer.encode_batch(list(texts))
        given = {
            "input_ids": np.array([row.ids for row in found], np.int64),
            "attention_mask": np.array([row.attention_mask for row in found], np.int64),
        }
        vectors: Vectors = self.session.run(None, given)[0]
        return vectors

    def encode_in_bulk(self, texts: Sequence[str], batch: int = 32) -> Vectors:
        """Return vectors (n, d) of any number of texts, those of like length together."""
        order = np.argsort([-len(text) for text in texts], kind="stable")
        parts = []
        for start in range(0, len(order), batch):
            parts.append(self.encode([texts[row] for row in order[start : start + batch].tolist()]))
        vectors = np.empty((len(texts), parts[0].shape[1]), np.float32)
        vectors[order] = np.concatenate(parts)
        return vectors


def export_plain(base: Any, folder: Path) -> None:
    """Write a base of Sentence Transformers that takes the mean of its tokens as a graph, and its tokeniser."""
    import torch
    from torch import Tensor, nn
    from torch.nn import functional as F

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = base[0].model

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            found = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            mask = attention_mask[..., None].float()
            return F.normalize((found * mask).sum(1) / mask.sum(1), dim=-1)

    folder.mkdir(parents=True, exist_ok=True)
    base[0].model.config._attn_implementation = "eager"
    ids = torch.randint(1000, 2000, (2, 7))
    torch.onnx.export(
        Whole().eval(),
        (ids, torch.ones_like(ids)),
        str(folder / GRAPH),
        input_names=["input_ids", "attention_mask"],
        output_names=["vectors"],
        dynamic_axes={"input_ids": {0: "n", 1: "t"}, "attention_mask": {0: "n", 1: "t"}},
        dynamo=False,
    )
    base.tokenizer.backend_tokenizer.save(str(folder / TOKENIZER))


def quantise_plain(folder: Path) -> None:
    """Write the plain graph in 8 bits beside that in fp32, as ONNX Runtime does it by itself."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        folder / GRAPH,
        folder / GRAPH_INT8,
        per_channel=True,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul", "Gemm"],
    )
