"""Models with as many experts as wanted, texts of an exact length, and a router that mixes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from routerretriever import RouterRetriever
from routerretriever.expert_state import ExpertState
from routerretriever.kernels.vectors import Vectors
from routerretriever.lora.adapter import Adapter
from routerretriever.lora.expert_info import ExpertInfo
from routerretriever.lora.peft_files import save_adapter
from routerretriever.routing.abstention import PilotSpace
from routerretriever.routing.pilot_library import PilotLibrary
from routerretriever.routing.policy import RoutingPolicy
from routerretriever.routing.routers import make_router

PILOTS = 12_000  # of a library, at least: nine collections have about as many
PILOTS_EACH = 100
NOISE = 0.02


def texts_of(model: RouterRetriever, queries: Sequence[str], count: int, tokens: int) -> list[str]:
    """Texts of words from real queries, each of exactly so many tokens."""
    tokenizer = model.encoder.tokenizer
    words = sorted({word for query in queries for word in query.lower().split() if word.isalpha()})
    whole = [word for word in words if len(tokenizer(word)["input_ids"]) == 3]
    rng = np.random.default_rng(tokens)
    return [" ".join(rng.choice(whole, tokens - 2)) for _ in range(count)]


def with_experts(path: Path, count: int, device: str = "cpu") -> RouterRetriever:
    """The model at ``path`` with so many experts: its own, and after them its own with a little noise."""
    model = RouterRetriever.from_pretrained(path, device=device)
    own = list(model.state.experts.values())
    generator = torch.Generator().manual_seed(0)

    def noisy(factor: torch.Tensor) -> torch.Tensor:
        return factor * (1 + NOISE * torch.randn(factor.shape, generator=generator).to(factor))

    experts: dict[str, Adapter] = {}
    for number in range(count):
        adapter = own[number % len(own)]
        experts[f"e{number}"] = adapter if number < len(own) else adapter.mapped(noisy)
    model.state = ExpertState(experts=experts, infos={name: ExpertInfo() for name in experts})
    return model


def of_random_experts(count: int, rank: int = 8) -> RouterRetriever:
    """The base with so many experts that learnt nothing; their time is that of others."""
    model = RouterRetriever.create(device="cpu")
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        drawn: torch.Tensor = torch.randn(*shape, generator=generator)
        return drawn.div(shape[1] ** 0.5)

    experts: dict[str, Adapter] = {}
    for number in range(count):
        factors = {}
        for name, layer in model.encoder.lora_layers.items():
            factors[name] = random(rank, layer.in_features), random(layer.out_features, rank)
        experts[f"e{number}"] = Adapter(factors, 0.1)
    model.state = ExpertState(experts=experts, infos={name: ExpertInfo() for name in experts})
    return model


def library_for(embeddings: Vectors, experts: Sequence[str]) -> PilotLibrary:
    """Pilots by which text i of some goes to expert i modulo their number; there are as many as in real libraries.

    Args:
        embeddings: route embeddings of the texts (n, d).
        experts: names.
    """
    count = max(PILOTS, PILOTS_EACH * len(experts), len(embeddings))
    rng = np.random.default_rng(0)
    rows = np.arange(count) % len(embeddings)
    noise = rng.normal(scale=0.5, size=(count, embeddings.shape[1])) / embeddings.shape[1] ** 0.5
    noise[: len(embeddings)] = 0
    centroids = embeddings[rows] + noise.astype(np.float32)
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    owner = rows % len(experts)
    gains = np.zeros((count, len(experts)), np.float32)
    gains[np.arange(count), owner] = 0.3
    ones = np.ones(count, np.int64)
    sources = tuple(f"c{number}" for number in owner)
    library = PilotLibrary(
        experts=tuple(experts),
        centroids=centroids,
        gains=gains,
        counts=ones,
        sources=sources,
        examples=("",) * count,
    )
    space = PilotSpace.fit(centroids, sources, np.arange(count) < 1)
    return replace(library, space=space)


def route_to_all(model: RouterRetriever, texts: Sequence[str]) -> list[str]:
    """Give the model a library that sends text i to expert i modulo their number; answers where each really goes."""
    embeddings = model.route_embeddings(texts)
    names = list(model.state.experts)
    router = make_router("gain", library_for(embeddings, names))
    model.state = model.state.with_policy(RoutingPolicy(router, abstain=False))
    return list(model.encode_routed(texts).experts)


def saved_adapters(model: RouterRetriever, folder: Path) -> list[Path]:
    """The model's experts as PEFT folders."""
    folders = []
    for name, adapter in model.state.experts.items():
        if not (folder / name / "adapter_model.safetensors").exists():
            save_adapter(adapter, folder / name, base=model.encoder.base.id, revision=None)
        folders.append(folder / name)
    return folders
