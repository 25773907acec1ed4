"""A base as an ONNX file with its tokeniser: a module that ONNX Runtime computes on the processor."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import onnx
import torch
from sentence_transformers.base.modules import InputModule

from routerretriever.encoder.text_tokenizer import TextTokenizer, TokenBatch
from routerretriever.encoder.token_graph import (
    GRAPH,
    ONNX_INFO,
    TOKENIZER,
    OnnxInfo,
    TokenGraph,
    read_onnx_info,
)
from routerretriever.encoder.token_ids import prompt_length
from routerretriever.errors import FormatError


class OnnxEncoder(InputModule):
    """The first module of an ONNX base.

    Attributes:
        graph: from tokens to vectors of tokens or texts.
        text_tokenizer: reads texts.
    """

    save_in_root = False

    def __init__(self, graph: Path, tokenizer: Path, info: OnnxInfo) -> None:
        """Open the tokeniser; the graph is opened when it is first needed.

        Args:
            graph: file of the graph.
            tokenizer: file of the tokeniser.
            info: what the files do not say.

        Raises:
            FormatError: a file is missing or damaged.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.info = info
        self.graph = TokenGraph(graph, info.output)
        self.text_tokenizer = TextTokenizer(tokenizer, info.tokenizer)
        self._tokenizer_file = tokenizer
        self._weights = _outside_files(graph)
        self._digest = _digest([graph, *self._weights])

    @property
    def max_seq_length(self) -> int | None:
        """Longest input in tokens."""
        return self.info.tokenizer.max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        reading = self.info.tokenizer.model_copy(update={"max_seq_length": value})
        self.info = self.info.model_copy(update={"tokenizer": reading})
        self.text_tokenizer = TextTokenizer(self._tokenizer_file, reading)

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Return token ids and mask (n, t) of texts or ids after their prompt."""
        ids, mask = self.text_tokenizer.batch(inputs, prompt)
        features: dict[str, Any] = {
            "input_ids": torch.from_numpy(ids),
            "attention_mask": torch.from_numpy(mask),
        }
        if prompt:
            features["prompt_length"] = prompt_length(prompt, self.text_tokenizer)
        return features

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Compute the graph; see :class:`TokenGraph`.

        Raises:
            ModelError: it cannot run, or does not give finite vectors.
        """
        ids = features["input_ids"]
        found = torch.from_numpy(
            self.graph(TokenBatch(ids.cpu().numpy(), features["attention_mask"].cpu().numpy()))
        )
        name = "token_embeddings" if found.ndim == 3 else "sentence_embedding"
        return {**features, name: found.to(ids.device)}

    def get_config_dict(self) -> dict[str, Any]:
        """Return what decides the vectors besides the tokeniser: the bytes of the graph, and its output."""
        return {"graph": self._digest, "output": self.info.output}

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Copy graph and tokeniser, and describe them."""
        folder = Path(output_path)
        shutil.copyfile(self.graph.path, folder / GRAPH)
        for file in self._weights:
            shutil.copyfile(file, folder / file.name)
        shutil.copyfile(self._tokenizer_file, folder / TOKENIZER)
        text = json.dumps(self.info.model_dump(), indent=2)
        (folder / ONNX_INFO).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, model_name_or_path: str, *args: Any, **kwargs: Any) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            FormatError: a file is missing or damaged.
        """
        folder = Path(model_name_or_path)
        return cls(folder / GRAPH, folder / TOKENIZER, read_onnx_info(folder))


def _outside_files(graph: Path) -> list[Path]:
    """Return the files beside a graph that hold its weights.

    Raises:
        FormatError: the graph is damaged, or names a file that is not beside it.
    """
    try:
        tensors = onnx.load(graph, load_external_data=False).graph.initializer
    except Exception as error:  # protobuf's own kinds are many
        raise FormatError(
            f"{graph} is missing or no ONNX file ({error}). Restore it or export it again."
        ) from error
    names: set[str] = set()
    for tensor in tensors:
        names.update(entry.value for entry in tensor.external_data if entry.key == "location")
    for name in sorted(names):
        if Path(name).name != name or not (graph.parent / name).is_file():
            raise FormatError(
                f"{graph} keeps weights in '{name}', which is not beside it. Copy that file there, or export the graph "
                "again."
            )
    return [graph.parent / name for name in sorted(names)]


def _digest(files: Sequence[Path]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest())
    return digest.hexdigest()
