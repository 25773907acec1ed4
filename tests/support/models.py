"""Models of tiny random encoders with experts and pilots."""

import numpy as np
from tiny import WORDS, random_adapter

from routerretriever import RouterRetriever
from routerretriever.lora.adapter import VECTOR_MAP
from routerretriever.routing.pilot_library import PilotLibrary
from routerretriever.routing.policy import RoutingPolicy
from routerretriever.routing.routers import GainRouter

TEXTS = [" ".join(WORDS[(7 * row + k) % 200] for k in range(1 + row % 9)) for row in range(24)]


def layers_of(encoder, kind):
    """The layers that an expert of a kind changes."""
    if kind == "map":
        return {VECTOR_MAP: encoder.adapted_layers[VECTOR_MAP]}
    return encoder.adapted_layers if kind == "both" else encoder.lora_layers


def with_experts(path, n=5, kinds=("lora",), **kwargs):
    """A model with random experts, whose kinds are these in turn."""
    model = RouterRetriever.create(str(path), device="cpu", **kwargs)
    for number in range(n):
        layers = layers_of(model.encoder, kinds[number % len(kinds)])
        model.add_expert(f"e{number}", random_adapter(layers, number, rank=2 + number))
    return model


def with_library(model):
    names = tuple(model.experts)
    gains = np.eye(len(names), dtype=np.float32)[np.arange(len(TEXTS)) % len(names)] - 0.1
    rows, sources = len(TEXTS), tuple("cd"[row % 2] for row in range(len(TEXTS)))
    versions = {name: adapter.fingerprint for name, adapter in model.state.experts.items()}
    library = PilotLibrary(
        experts=names,
        centroids=model.route_embeddings(TEXTS),
        gains=gains,
        counts=np.ones(rows, np.int64),
        sources=sources,
        examples=tuple(TEXTS),
        versions=versions,
    )
    model.state = model.state.with_policy(RoutingPolicy(GainRouter(library.fitted(), neighbours=1)))
    return model


def load(path):
    return RouterRetriever.from_pretrained(path, device="cpu")
