"""Models of tiny random encoders with experts and pilots."""

import numpy as np
from tiny import WORDS, random_adapter

from routerretriever import RouterRetriever
from routerretriever.routing.pilot_library import PilotLibrary
from routerretriever.routing.policy import RoutingPolicy
from routerretriever.routing.routers import GainRouter

TEXTS = [" ".join(WORDS[(7 * row + k) % 200] for k in range(1 + row % 9)) for row in range(24)]


def with_experts(path, n=5, **kwargs):
    model = RouterRetriever.create(str(path), device="cpu", **kwargs)
    for number in range(n):
        model.add_expert(f"e{number}", random_adapter(model.encoder.lora_layers, number, rank=2 + number))
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
