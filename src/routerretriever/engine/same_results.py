"""Compare a freshly exported engine with the base that it was exported from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from routerretriever.encoder.batch_routing import BatchRouting
from routerretriever.encoder.routed_encoder import RoutedEncoder
from routerretriever.encoder.silent import PROBES
from routerretriever.encoder.text_tokenizer import TextTokenizer
from routerretriever.engine.engine_info import FP32, INT8, TOKENIZER, EngineInfo
from routerretriever.engine.experts import EngineExperts
from routerretriever.engine.routed_pass import RoutedPass
from routerretriever.errors import EngineError
from routerretriever.expert_state import ExpertState
from routerretriever.kernels.vectors import Vectors, unit_rows
from routerretriever.lora.adapter import VECTOR_MAP, Adapter
from routerretriever.lora.expert_info import ExpertInfo
from routerretriever.lora.layers import FusedPlan

TORCH_WOULD_DO = "With torch the model can be used as it is: engine='torch'."
TOLERANCE = 1e-4
LEAST_COSINE = 0.98
"""In 8 bits, between a vector and that in fp32."""
_TEXTS = (*PROBES, "a", " ".join(["several words"] * 20), " ".join(["more than is read"] * 400))


def check_same(encoder: RoutedEncoder, info: EngineInfo, folder: Path) -> None:
    """Check that an engine reads the same tokens, and computes the same vectors and route embeddings.

    Args:
        encoder: the base.
        info: of the engine.
        folder: of the engine.

    Raises:
        EngineError: something differs by more than :data:`TOLERANCE`, at unit length, or in 8 bits by more than
            :data:`LEAST_COSINE` allows.
    """
    tokens = TextTokenizer(folder / TOKENIZER, info.tokenizer).batch(_TEXTS, None)
    features = encoder.tokenized(_TEXTS)
    ids = features["input_ids"] * features["attention_mask"]
    if not np.array_equal(ids.numpy(), tokens.ids * tokens.mask):
        raise EngineError(f"The tokeniser does something that its file does not say. {TORCH_WOULD_DO}")

    adapter = _any_adapter(info)
    state = ExpertState(experts={"any": adapter}, infos={"any": ExpertInfo()})
    experts = EngineExperts(state, info, folder)
    everything = BatchRouting(state, len(_TEXTS), ["any"] * len(_TEXTS))
    with torch.inference_mode():
        base = encoder.encode_plainly(dict(features))["sentence_embedding"].numpy()
        routed = encoder.forward_by(dict(features), None)["route_embedding"].numpy()
        changed = encoder.finish(FusedPlan((_as_tensors(adapter),)), features, None).numpy()

    comparisons = {FP32: _compare}
    if info.precision == INT8:
        comparisons[INT8] = _compare_directions
    for precision, compare in comparisons.items():
        engine = RoutedPass(info, folder, precision=precision)
        adapted, _ = engine.routed(tokens, None, everything, experts)
        compare("vectors", base, engine.base(tokens, None))
        compare("route embeddings", routed, engine.route_embeddings(tokens, None))
        compare("vectors of an expert", changed, adapted)


def _any_adapter(info: EngineInfo) -> Adapter:
    """Return factors that change every layer a little, or the finished vector where there is none."""
    rng = np.random.default_rng(0)
    factors = {}
    shapes = {name: (layer.outputs, layer.inputs) for name, layer in info.layers.items()}
    if info.is_whole:
        shapes = {VECTOR_MAP: (info.dimension, info.dimension)}
    for name, (outputs, inputs) in shapes.items():
        a = rng.normal(size=(2, inputs)) / inputs**0.5
        b = rng.normal(size=(outputs, 2)) / outputs**0.5
        factors[name] = a.astype(np.float32), b.astype(np.float32)
    return Adapter(factors, 0.1)


def _as_tensors(adapter: Adapter) -> Adapter:
    return adapter.mapped(torch.as_tensor)


def _compare(what: str, wanted: Vectors, found: Vectors) -> None:
    scale = float(np.linalg.norm(wanted, axis=1).max())
    difference = float(np.abs(wanted - found).max()) / max(scale, 1e-12)
    if not difference < TOLERANCE:
        raise EngineError(
            f"The exported graph computes other {what} than the base (difference {difference:.1e}). {TORCH_WOULD_DO}"
        )


def _compare_directions(what: str, wanted: Vectors, found: Vectors) -> None:
    cosine = float((unit_rows(wanted) * unit_rows(found)).sum(axis=1).min())
    if not cosine > LEAST_COSINE:
        raise EngineError(
            f"In 8 bits the {what} of this base are too far from those in fp32 (cosine {cosine:.3f}, at least "
            f"{LEAST_COSINE} is wanted). Compile it with --precision fp32."
        )
