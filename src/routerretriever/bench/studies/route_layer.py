"""The layer that the router reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from routerretriever.bench.prepared import make_known
from routerretriever.bench.query_set import QuerySet
from routerretriever.bench.runner import Bench
from routerretriever.bench.studies.study import Point, StudyResult, mean_figures
from routerretriever.bench.study_settings import StudySettings
from routerretriever.encoder.routed_encoder import RoutedEncoder
from routerretriever.kernels.vectors import Vectors

_BLOCK = 64  # queries encoded at once


def route_layer_study(bench: Bench, seed: int, settings: StudySettings) -> StudyResult:
    """Vary the layer whose pooled hidden state the router reads; 0 is the token embeddings' mean."""
    prepared, names = bench.prepare(seed), bench.suite.experts
    groups = {"seen": names, "unseen": bench.suite.unseen}
    encoder = bench.create().encoder
    by_layer = {}
    for own in (*prepared.held_out.values(), *prepared.test.values()):
        by_layer[id(own)] = embeddings_by_layer(encoder, own.queries.texts)

    def read_at(layer: int, sets: Mapping[str, QuerySet]) -> dict[str, QuerySet]:
        read = {}
        for name, own in sets.items():
            queries = replace(own.queries, route_embeddings=by_layer[id(own)][layer])
            read[name] = replace(own, queries=queries)
        return read

    points = []
    for layer in range(encoder.num_layers + 1):
        held_out, test = read_at(layer, prepared.held_out), read_at(layer, prepared.test)
        known = make_known(replace(prepared, held_out=held_out), names)
        label = "final" if layer == encoder.num_layers else str(layer)
        points.append(Point(label, mean_figures(known, test, groups)))
    return StudyResult(name="route-layer", title="Where the router reads", axis="layer", points=tuple(points))


def embeddings_by_layer(encoder: RoutedEncoder, texts: Sequence[str]) -> list[Vectors]:
    """Return mean-pooled unit vectors (n, d) that enter each layer of the base or leave the last."""
    found: list[list[Tensor]] = []
    for start in range(0, len(texts), _BLOCK):
        stop = start + _BLOCK
        with torch.no_grad():
            features = encoder.tokenized(list(texts[start:stop]))
            found.append(_pooled_by_layer(encoder, features))
    return [torch.cat(blocks).cpu().numpy() for blocks in zip(*found, strict=True)]


def _pooled_by_layer(encoder: RoutedEncoder, features: dict[str, Any]) -> list[Tensor]:
    """Return the base's hidden states entering each layer, mean-pooled (n, d), then its embedding."""
    entering: list[Tensor] = []

    def note(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        entering.append(encoder.layered.read(hidden, features["attention_mask"]))

    layers = encoder.layered.layers
    handles = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in layers]
    try:
        final: Tensor = encoder.encode_plainly(dict(features))["sentence_embedding"]
    finally:
        for handle in handles:
            handle.remove()
    return [*entering, normalize(final.float(), dim=-1)]
