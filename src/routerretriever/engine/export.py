"""Compile a model: export its base as ONNX graphs, and check them against torch."""

from __future__ import annotations

import inspect
import json
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx.external_data_helper import load_external_data_for_tensor
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import Tensor, nn
from torch.nn import functional as F

from routerretriever.encoder.onnx_encoder import OnnxEncoder
from routerretriever.encoder.pass_state import DeferredLayers
from routerretriever.encoder.routed_encoder import RoutedEncoder
from routerretriever.encoder.silent import PROBES
from routerretriever.encoder.text_tokenizer import TokenizerInfo
from routerretriever.engine.eight_bits import write_eight_bits
from routerretriever.engine.engine_info import (
    ADAPTED,
    ENGINE,
    ENGINE_FORMAT,
    ENGINE_INFO,
    FP32,
    INT8,
    LOWER,
    PRECISIONS,
    TOKENIZER,
    UPPER,
    EngineInfo,
    LayerInfo,
)
from routerretriever.engine.graph_files import write_optimised
from routerretriever.engine.same_results import TORCH_WOULD_DO, check_same
from routerretriever.errors import EngineError
from routerretriever.lora.layers import LoraLinear
from routerretriever.storage.atomic import replacing

_OPSET = 17
_ROWS, _TOKENS = 2, 7  # of the batch that is traced


class _InputPlan:
    """Applies factors that are inputs of the graph: A (m, r, in) and B (m, out, r), m being 1 or the rows."""

    def __init__(self, factors: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        self._factors = factors

    def changes(self, name: str) -> bool:
        return name in self._factors

    def __call__(self, layer: LoraLinear, x: Tensor) -> Tensor:
        a, b = self._factors[layer.name]
        low = x @ a.transpose(1, 2)
        return F.linear(x, layer.weight, layer.bias) + low @ b.transpose(1, 2)


class _Lower(nn.Module):
    """Token ids → hidden states entering the branch layer, and what the router reads."""

    def __init__(self, encoder: RoutedEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        deferred = DeferredLayers(decide=None, state=self.encoder.state, attention_mask=attention_mask)
        with self.encoder.layered.deferring(deferred):
            self.encoder.body.model(input_ids=input_ids, attention_mask=attention_mask)
        assert deferred.hidden is not None and deferred.route_embeddings is not None
        return deferred.hidden, deferred.route_embeddings


class _Upper(nn.Module):
    """Hidden states → vectors, by the base or with the factors of experts."""

    def __init__(self, encoder: RoutedEncoder, layers: Sequence[str]) -> None:
        super().__init__()
        self.encoder = encoder
        self.layers = layers

    def forward(
        self, hidden: Tensor, attention_mask: Tensor, pooled_mask: Tensor, *factors: Tensor
    ) -> Tensor:
        plan = None
        if self.layers:
            pairs = zip(factors[0::2], factors[1::2], strict=True)
            plan = _InputPlan(dict(zip(self.layers, pairs, strict=True)))
        layered = self.encoder.layered
        with layered.resuming(hidden), layered.selection.use(plan):
            output = self.encoder.body.model(inputs_embeds=hidden, attention_mask=attention_mask)
        return _after_layers(self.encoder, output.last_hidden_state, pooled_mask)


class _Head(nn.Module):
    """What the graph of an ONNX base gives → vectors."""

    def __init__(self, encoder: RoutedEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, hidden: Tensor, pooled_mask: Tensor) -> Tensor:
        return _after_layers(self.encoder, hidden, pooled_mask)


def _after_layers(encoder: RoutedEncoder, hidden: Tensor, mask: Tensor) -> Tensor:
    """Return vectors (n, d) of what the body gives: for each token (n, t, d), or for each text (n, d)."""
    name = "token_embeddings" if hidden.ndim == 3 else "sentence_embedding"
    features: dict[str, Any] = {name: hidden, "attention_mask": mask}
    for module in encoder.head:
        features = module(features)
    vectors: Tensor = features["sentence_embedding"]
    return vectors


def export_engine(
    encoder: RoutedEncoder, prompts: Sequence[str], model: Path, *, precision: str = FP32
) -> EngineInfo:
    """Write the engine of a model's base into its folder, in one step.

    Args:
        encoder: the base, on a processor.
        prompts: put before queries and documents.
        model: folder of the model; only ``engine/`` in it is replaced.
        precision: in which queries are encoded.

    Raises:
        EngineError: the base cannot be exported.
        StorageError: the engine could not be written; a former one is unchanged.
    """
    _check_exportable(encoder)
    _check_precision(encoder, precision)
    with tempfile.TemporaryDirectory() as scratch, replacing(model / ENGINE, renewed=(INT8,)) as folder:
        try:
            if isinstance(encoder.body, OnnxEncoder):
                _write_head(encoder, Path(scratch), folder)
            else:
                with _traceable(encoder):
                    _write_graphs(encoder, Path(scratch), folder)
            if precision == INT8:
                _write_in_eight_bits(Path(scratch), folder)
        except EngineError:
            raise
        except Exception as error:  # the exporter raises whatever the architecture provokes
            kind = type(getattr(encoder.body, "model", encoder.body)).__name__
            raise EngineError(
                f"The base ({kind}) cannot be exported as a graph ({type(error).__name__}: {error}). "
                f"{TORCH_WOULD_DO}"
            ) from error
        encoder.tokenizer.backend_tokenizer.save(str(folder / TOKENIZER))
        info = _describe(encoder, prompts, folder, precision)
        text = json.dumps(info.model_dump(), indent=2, ensure_ascii=False)
        (folder / ENGINE_INFO).write_text(text + "\n", encoding="utf-8")
        check_same(encoder, info, folder)
    return info


def _check_exportable(encoder: RoutedEncoder) -> None:
    if isinstance(encoder.body, OnnxEncoder):
        return
    if not encoder.is_opened:
        raise EngineError(f"The base has no layers that can be run one by one. {TORCH_WOULD_DO}")
    kinds = {parameter.dtype for parameter in encoder.body.parameters()}
    if kinds != {torch.float32}:
        names = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))
        raise EngineError(f"The base is stored in {names}; engines compute in float32. {TORCH_WOULD_DO}")
    if not hasattr(encoder.tokenizer, "backend_tokenizer"):
        kind = type(encoder.tokenizer).__name__
        raise EngineError(
            f"The base's tokeniser ({kind}) is written in Python and cannot be exported. {TORCH_WOULD_DO}"
        )
    sample = encoder.text.preprocess(["some text", "text"], None)
    types = sample.get("token_type_ids")
    if types is not None and bool(types.any()):
        raise EngineError(f"The base reads token types other than 0. {TORCH_WOULD_DO}")


def _check_precision(encoder: RoutedEncoder, precision: str) -> None:
    if precision not in PRECISIONS:
        raise EngineError(f"There is no precision '{precision}'. Choose one of: {', '.join(PRECISIONS)}.")
    if precision == INT8 and isinstance(encoder.body, OnnxEncoder):
        raise EngineError(
            "The base is an ONNX file, which is run as it is. Compile it with --precision fp32; for 8 bits create the "
            "model from a file in 8 bits."
        )


@contextmanager
def _traceable(encoder: RoutedEncoder) -> Iterator[None]:
    """Let the base compute attention step by step, which graphs can express."""
    config: Any = encoder.body.model.config
    before = config._attn_implementation
    training = [module for module in encoder.modules() if module.training]
    config._attn_implementation = "eager"
    encoder.eval()
    try:
        with torch.no_grad(), _quietly():
            yield
    finally:
        config._attn_implementation = before
        for module in training:
            module.training = True


@contextmanager
def _quietly() -> Iterator[None]:
    """Hide what the tracer says about every shape that Python looks at."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _given_embeddings(model: nn.Module) -> Iterator[None]:
    """Let a transformer take what stands for its embeddings as it is, without computing any."""
    embeddings: Any = getattr(model, "embeddings", None)
    if embeddings is None:
        yield
        return
    embeddings.forward = lambda *args, inputs_embeds=None, **kwargs: inputs_embeds
    try:
        yield
    finally:
        del embeddings.forward


def _write_graphs(encoder: RoutedEncoder, scratch: Path, folder: Path) -> None:
    ids = torch.randint(len(encoder.tokenizer), (_ROWS, _TOKENS))
    mask = torch.ones_like(ids)
    mask[1, _TOKENS - 2 :] = 0
    hidden = torch.randn(_ROWS, _TOKENS, encoder.body.model.config.hidden_size)
    texts = {0: "n", 1: "t"}
    graph = _Graph(
        module=_Lower(encoder),
        inputs={"input_ids": ids, "attention_mask": mask},
        axes={"input_ids": texts, "attention_mask": texts, "hidden": texts, "route": {0: "n"}},
        outputs=("hidden", "route"),
    )
    graph.write(folder / LOWER, scratch)

    inputs = {"hidden": hidden, "attention_mask": mask, "pooled_mask": mask}
    axes: dict[str, dict[int, str]] = {**dict.fromkeys(inputs, texts), "vectors": {0: "n"}}
    with _given_embeddings(encoder.body.model):
        _Graph(module=_Upper(encoder, ()), inputs=inputs, axes=axes, outputs=("vectors",)).write(
            folder / UPPER, scratch
        )
        for number, (name, layer) in enumerate(encoder.lora_layers.items()):
            outputs, size = layer.weight.shape
            a, b = f"{name}.A", f"{name}.B"
            inputs = {**inputs, a: torch.randn(_ROWS, 3, size), b: torch.randn(_ROWS, outputs, 3)}
            axes |= {a: {0: "m", 1: f"r{number}"}, b: {0: "m", 2: f"r{number}"}}
        adapted = _Upper(encoder, tuple(encoder.lora_layers))
        _Graph(module=adapted, inputs=inputs, axes=axes, outputs=("vectors",)).write(
            folder / ADAPTED, scratch
        )


def _write_in_eight_bits(scratch: Path, folder: Path) -> None:
    (folder / INT8).mkdir()
    for name in (LOWER, UPPER, ADAPTED):
        write_eight_bits(folder / name, folder / INT8 / name, scratch)


def _write_head(encoder: RoutedEncoder, scratch: Path, folder: Path) -> None:
    """Write what comes after the graph of an ONNX base."""
    with torch.no_grad(), _quietly():
        features = encoder.body(encoder.body.preprocess([*PROBES][:_ROWS]))
        hidden = features.get("token_embeddings", features.get("sentence_embedding"))
        mask = features["attention_mask"]
        inputs = {"hidden": hidden, "pooled_mask": mask}
        texts = {0: "n", 1: "t"}
        axes = {"hidden": texts if hidden.ndim == 3 else {0: "n"}, "pooled_mask": texts, "vectors": {0: "n"}}
        _Graph(module=_Head(encoder), inputs=inputs, axes=axes, outputs=("vectors",)).write(
            folder / UPPER, scratch
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Graph:
    """A part of the base that is traced with example inputs.

    Attributes:
        module: the part.
        inputs: name → example.
        axes: input or output → number of an axis of any length → its name.
        outputs: names.
    """

    module: nn.Module
    inputs: Mapping[str, Tensor]
    axes: Mapping[str, Mapping[int, str]]
    outputs: Sequence[str]

    def write(self, target: Path, scratch: Path) -> None:
        """Trace, and write the graph."""
        raw = scratch / target.name
        options: dict[str, Any] = {}
        if "dynamo" in inspect.signature(torch.onnx.export).parameters:
            options["dynamo"] = False  # the newer exporter takes ten times as long for a slower graph
        torch.onnx.export(
            self.module.eval(),  # the exporter gives all parts the mode of the whole
            tuple(self.inputs.values()),
            str(raw),
            input_names=list(self.inputs),
            output_names=list(self.outputs),
            dynamic_axes=self.axes,
            opset_version=_OPSET,
            **options,
        )
        write_optimised(raw, target)
        raw.unlink()


def _describe(encoder: RoutedEncoder, prompts: Sequence[str], folder: Path, precision: str) -> EngineInfo:
    left_out: dict[str, int] = {}
    if any(isinstance(module, Pooling) and not module.include_prompt for module in encoder.head):
        for prompt in prompts:
            left_out[prompt] = int(encoder.text.preprocess(["text"], prompt)["prompt_length"])
    return EngineInfo(
        format_version=ENGINE_FORMAT,
        fingerprint=encoder.fingerprint,
        branch_layer=encoder.branch_layer,
        route_layer=encoder.route_layer,
        num_layers=encoder.num_layers,
        dimension=encoder.dimension,
        route_dimension=encoder.route_dimension,
        to_unit_length=encoder.vector_map.to_unit_length,
        prompt_lengths=left_out,
        tokenizer=_reading(encoder),
        layers=_layers(encoder, folder),
        onnxruntime=onnxruntime.__version__,
        sizes={
            file.relative_to(folder).as_posix(): file.stat().st_size
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        },
        precision=precision,
    )


def _reading(encoder: RoutedEncoder) -> TokenizerInfo:
    if isinstance(encoder.body, OnnxEncoder):
        return encoder.body.info.tokenizer
    tokenizer = encoder.tokenizer
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    return TokenizerInfo(
        pad_id=tokenizer.pad_token_id,
        special_ids=tuple(sorted(special)),
        max_seq_length=encoder.max_seq_length,
        truncation_side=getattr(tokenizer, "truncation_side", "right"),
    )


def _layers(encoder: RoutedEncoder, folder: Path) -> dict[str, LayerInfo]:
    """Find the weight of each layer in the upper graph, by its content: the exporter names them by number."""
    stored: list[tuple[str, int, NDArray[Any]]] = []
    for tensor in onnx.load(folder / UPPER, load_external_data=False).graph.initializer:
        if len(tensor.dims) == 2 and tensor.data_location == onnx.TensorProto.EXTERNAL:
            offset = int({entry.key: entry.value for entry in tensor.external_data}.get("offset", 0))
            load_external_data_for_tensor(tensor, str(folder))
            stored.append((tensor.name, offset, onnx.numpy_helper.to_array(tensor)))

    found: dict[str, LayerInfo] = {}
    for name, layer in encoder.lora_layers.items():
        weight = layer.weight.detach().numpy()
        for initializer, offset, array in stored:
            is_transposed = np.array_equal(array, weight.T)
            if name not in found and (is_transposed or np.array_equal(array, weight)):
                found[name] = LayerInfo(
                    outputs=weight.shape[0],
                    inputs=weight.shape[1],
                    initializer=initializer,
                    transposed=is_transposed,
                    offset=offset,
                )
        if name not in found:
            raise EngineError(
                f"The weight of the layer '{name}' is not in the exported graph. {TORCH_WOULD_DO}"
            )
    return found
