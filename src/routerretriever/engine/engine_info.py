"""What is known of a compiled engine: ``MODEL/engine/engine.json``.

    MODEL/engine/
      engine.json          this description
      tokenizer.json       the base's tokeniser
      lower.onnx, .bin     tokens → hidden states at the branch layer, and what the router reads
      upper.onnx, .bin     hidden states → vectors, by the base
      adapted.onnx, .bin   the same with the factors of experts as inputs
      int8/                the three in 8 bits, for queries, if they were asked for

Of a base that is an ONNX file itself, that file is the lower graph, and ``upper.onnx`` is what comes after it:
pooling, for example. There are no others.

Where documents have another base than queries, its engine is ``MODEL/documents/engine``.

The graphs are of the base alone. Experts and pilots are read from the model's own files, so a change of
either leaves the engine as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from routerretriever.encoder.text_tokenizer import TokenizerInfo
from routerretriever.errors import EngineError
from routerretriever.storage.model_folder import DOCUMENTS
from routerretriever.validation import first_fault

ENGINE, ENGINE_INFO, TOKENIZER = "engine", "engine.json", "tokenizer.json"
LOWER, UPPER, ADAPTED = "lower.onnx", "upper.onnx", "adapted.onnx"
UPPER_WEIGHTS = "upper.bin"
FP32, INT8 = "fp32", "int8"
PRECISIONS = (FP32, INT8)
"""In which queries may be encoded. Documents are in fp32, or in 8 bits if an index asks for it."""
ENGINE_FORMAT = 1
COMPILE_AGAIN = "Compile it again: routerretriever compile MODEL"


class LayerInfo(BaseModel):
    """A linear layer that experts may change.

    Attributes:
        outputs, inputs: shape of its weight.
        initializer: name of the weight in the upper graph.
        transposed: whether it is stored as (inputs, outputs).
        offset: where it begins in the file of that graph's weights, in bytes.
    """

    model_config = ConfigDict(frozen=True)

    outputs: int
    inputs: int
    initializer: str
    transposed: bool
    offset: int


class EngineInfo(BaseModel):
    """Content of ``engine.json``.

    Attributes:
        format_version: of the folder.
        fingerprint: of the base that the graphs compute.
        branch_layer, route_layer: where experts begin and where the router reads.
        num_layers: of the base; 0 if it is an ONNX file, which cannot be opened.
        dimension, route_dimension: lengths of vectors and route embeddings.
        to_unit_length: whether the base's vectors have unit length.
        prompt_lengths: prompt → tokens that the base leaves out of its pooling; empty if it leaves out none.
        tokenizer: how texts are read.
        layers: name → each layer that experts may change.
        onnxruntime: version that wrote the graphs.
        sizes: file → bytes.
        precision: in which queries are encoded, one of :data:`PRECISIONS`.
    """

    model_config = ConfigDict(frozen=True)

    format_version: int
    fingerprint: str
    branch_layer: int
    route_layer: int
    num_layers: int
    dimension: int
    route_dimension: int
    to_unit_length: bool
    prompt_lengths: Mapping[str, int]
    tokenizer: TokenizerInfo
    layers: Mapping[str, LayerInfo]
    onnxruntime: str
    sizes: Mapping[str, int]
    precision: str = Field(default=FP32, pattern=f"^({'|'.join(PRECISIONS)})$")

    @property
    def routes_by_final_vector(self) -> bool:
        """Whether the router reads the finished vector, which costs a second pass."""
        return self.route_layer == self.num_layers

    @property
    def is_whole(self) -> bool:
        """Whether the lower graph is the base's own file."""
        return self.num_layers == 0


def fresh_engine_info(model: Path, model_info: Mapping[str, Any]) -> EngineInfo:
    """Return the description of a model's engine, of the base that the model has.

    Args:
        model: folder of the model.
        model_info: content of its ``routerretriever.json``.

    Raises:
        EngineError: there is no engine, or it is damaged, of another version, or of another base or layers;
            or that of the base of documents is, where there is one.
    """
    info = _read(model)
    wanted = (model_info["base"]["fingerprint"], model_info["branch_layer"], model_info["route_layer"])
    if wanted != (info.fingerprint, info.branch_layer, info.route_layer):
        raise EngineError(
            f"The engine in {model / ENGINE} is stale: it was compiled from another base, or with other layers for "
            f"experts, than the model has now. {COMPILE_AGAIN}"
        )
    if DOCUMENTS in model_info:
        fresh_engine_info(model / DOCUMENTS, model_info[DOCUMENTS])
    return info


def has_engine(model: Path) -> bool:
    """Return whether a model's folder holds an engine, fresh or not."""
    return (model / ENGINE / ENGINE_INFO).exists()


def _read(model: Path) -> EngineInfo:
    folder = model / ENGINE
    path = folder / ENGINE_INFO
    if not path.exists():
        raise EngineError(
            f"The model in {model} has no compiled engine, which is needed without torch. Where torch is installed "
            f"(pip install 'routerretriever[train]'), it can be used as it is, and compiled: routerretriever compile "
            f"{model}"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content["format_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(f"{path} is damaged ({error}). {COMPILE_AGAIN}") from error
    if version != ENGINE_FORMAT:
        raise EngineError(
            f"{path} has format {version}; this version reads format {ENGINE_FORMAT}. {COMPILE_AGAIN}"
        )
    try:
        info = EngineInfo.model_validate(content)
    except ValidationError as error:
        name, given, reason = first_fault(error)
        raise EngineError(f"{path} is damaged: '{name}' is {given} ({reason}). {COMPILE_AGAIN}") from error
    _check_sizes(folder, info)
    return info


def _check_sizes(folder: Path, info: EngineInfo) -> None:
    for name, size in info.sizes.items():
        path = folder / name
        if not path.exists():
            raise EngineError(f"The engine in {folder} has no {name}. {COMPILE_AGAIN}")
        found = path.stat().st_size
        if found != size:
            raise EngineError(f"{path} was cut short: it has {found} bytes of {size}. {COMPILE_AGAIN}")
