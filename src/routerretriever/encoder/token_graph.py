"""A base as an ONNX file: its folder in a saved model, and the graph from tokens to numbers, without torch.

MODEL/0_OnnxEncoder/
onnx.json        which output is read, and how texts are
model.onnx       the graph; files with weights of large ones keep their names
tokenizer.json   its tokeniser
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from routerretriever.encoder.graph import Graph, open_graph, said
from routerretriever.encoder.text_tokenizer import TokenBatch, TokenizerInfo
from routerretriever.errors import FormatError, ModelError
from routerretriever.validation import first_fault

ONNX_FOLDER = "0_OnnxEncoder"
ONNX_INFO, GRAPH, TOKENIZER = "onnx.json", "model.onnx", "tokenizer.json"
OF_TOKENS = ("token_embeddings", "last_hidden_state")
"""Outputs with a vector for each token."""
OF_TEXTS = ("sentence_embedding", "sentence_embeddings", "pooled_embeddings", "embeddings")
"""Outputs with one vector for a text."""
_INTEGERS = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_AGAIN = (
    "Export it again for feature extraction, with batches and lengths of any size (dynamic axes) and without a cache "
    "of keys and values."
)


class OnnxInfo(BaseModel):
    """Content of ``onnx.json``.

    Attributes:
        output: name of the output that is read.
        tokenizer: how texts are read.
    """

    model_config = ConfigDict(frozen=True)

    output: str
    tokenizer: TokenizerInfo


def read_onnx_info(folder: Path) -> OnnxInfo:
    """Return the description of an ONNX base in a saved model.

    Raises:
        FormatError: it is missing or damaged.
    """
    path = folder / ONNX_INFO
    try:
        return OnnxInfo.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        name, given, reason = first_fault(error)
        raise FormatError(f"{path} is damaged: '{name}' is {given} ({reason}). Restore it.") from error
    except (OSError, ValueError) as error:
        raise FormatError(f"{path} is missing or damaged ({error}). Restore it.") from error


class TokenGraph:
    """Computes one output of a graph from token ids; the graph is opened when it is first needed.

    Args:
        path: of the graph.
        output: name of the output.
        threads: that one batch uses; default one a core.
    """

    def __init__(self, path: Path, output: str, threads: int | None = None) -> None:
        self.path = path
        self.output = output
        self._threads = threads

    @cached_property
    def _graph(self) -> Graph:
        graph = opened(self.path, self._threads)
        if self.output not in graph.outputs:
            raise FormatError(f"{self.path} has no output '{self.output}'. Restore the file.")
        return graph

    def __call__(self, tokens: TokenBatch) -> NDArray[np.float32]:
        """Return a vector for each token (n, t, d), or for each text (n, d).

        Raises:
            ModelError: the graph cannot run on these texts, or what it gives is no such array, or not finite.
        """
        values: dict[str, NDArray[Any]] = {
            "input_ids": tokens.ids,
            "attention_mask": tokens.mask,
            "token_type_ids": np.zeros_like(tokens.ids),
        }
        graph = self._graph
        typed = {
            name: values[name].astype(_INTEGERS[kind], copy=False) for name, kind in graph.inputs.items()
        }
        count, length = tokens.ids.shape
        try:
            (found,) = graph(typed, [self.output])
        except Exception as error:  # the runtime's own kinds are many, and none of them is public
            raise ModelError(
                f"{self.path} could not be run on {count} texts of up to {length} tokens ({said(error)}). If it has "
                "places for fewer tokens, set max_seq_length in sentence_bert_config.json beside it, and create the "
                f"model again. Otherwise: {_AGAIN}"
            ) from error
        if found.shape[:-1] not in ((count, length), (count,)):
            raise ModelError(
                f"The output '{self.output}' of {self.path} has the shape {found.shape} for {count} texts of "
                f"{length} tokens; a vector for each token or for each text is expected. {_AGAIN}"
            )
        numbers: NDArray[np.float32] = found.astype(np.float32, copy=False)
        if not np.isfinite(numbers).all():
            raise ModelError(
                f"The output '{self.output}' of {self.path} has numbers that are not finite. Export it again, in "
                "fp32 if it is in half precision."
            )
        return numbers


def own_graph(model: Path, threads: int | None = None) -> TokenGraph:
    """Return the graph of a saved model whose base is an ONNX file.

    Raises:
        FormatError: its description is missing or damaged.
    """
    folder = model / ONNX_FOLDER
    return TokenGraph(folder / GRAPH, read_onnx_info(folder).output, threads)


def opened(path: Path, threads: int | None = None) -> Graph:
    """Open the graph of a base.

    Raises:
        FormatError: it is damaged.
        ModelError: it reads something else than tokens.
    """
    try:
        graph = open_graph(path, threads)
    except FormatError as error:
        raise FormatError(
            f"{error} Restore the file, with the files of weights beside it that belong to it."
        ) from error
    unknown = [name for name in graph.inputs if name not in _INPUTS]
    if unknown or "input_ids" not in graph.inputs:
        raise ModelError(
            f"{path} reads {', '.join(graph.inputs) or 'nothing'}; only {', '.join(_INPUTS)} are given. {_AGAIN}"
        )
    for name, kind in graph.inputs.items():
        if kind not in _INTEGERS:
            raise ModelError(f"The input '{name}' of {path} is a {kind}, not one of integers. {_AGAIN}")
    return graph
