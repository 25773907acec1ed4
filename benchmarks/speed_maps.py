"""Experts that are maps of the finished vector: routed queries against the plain base, loading, and bytes in memory.

The maps are random: their time does not depend on what they learnt.
"""

from __future__ import annotations

from typing import Any

import torch
from speed_experts import measured
from speed_models import route_to_all, texts_of
from speed_setting import BASE, Setting, said
from speed_timing import paired, summary, using_threads

from routerretriever import RouterRetriever
from routerretriever.expert_state import ExpertState
from routerretriever.lora.adapter import VECTOR_MAP, Adapter
from routerretriever.lora.expert_info import ExpertInfo

THREADS, TOKENS, RANK = 2, 16, 64
COUNTS, BATCHES = (8, 64, 512), (1, 8, 64, 512)


def run(setting: Setting) -> dict[str, Any]:
    """Models of 8, 64 and 512 maps: batches of every size, then the model as a whole."""
    base, rows, models = setting.base(), [], []
    for count in COUNTS:
        model = with_maps(count, setting.device)
        texts = texts_of(model, setting.queries, max(BATCHES), TOKENS)
        route_to_all(model, texts)
        with using_threads(THREADS):
            for batch in BATCHES:
                some = texts[:batch]
                times = paired(
                    {
                        "routed": lambda some=some, model=model: model.encode_query(  # type: ignore[misc]
                            some, batch_size=len(some)
                        ),
                        "base": lambda some=some: base.encode_query(some, batch_size=len(some)),  # type: ignore[misc]
                    }
                )
                facts = {"threads": THREADS, "tokens": TOKENS, "batch": batch, "experts": count}
                rows.append(said(facts | summary(times, "routed")))
        models.append(said(_loaded(setting, model, count)))
    return {"rows": rows, "models": models}


def with_maps(count: int, device: str) -> RouterRetriever:
    """A model whose experts are maps."""
    model = RouterRetriever.create(BASE, device=device)
    generator = torch.Generator().manual_seed(0)
    size = model.dimension
    experts = {}
    for number in range(count):
        a = torch.randn(RANK, size, generator=generator) / size**0.5
        b = torch.randn(size, RANK, generator=generator) / size**0.5
        experts[f"e{number}"] = Adapter({VECTOR_MAP: (a, b)}, 1.0)
    model.state = ExpertState(experts=experts, infos={name: ExpertInfo() for name in experts})
    return model


def _loaded(setting: Setting, model: RouterRetriever, count: int) -> dict[str, Any]:
    """What loading the model takes beyond one without maps, in processes of their own."""
    folder, bare = setting.scratch / f"maps-{count}", setting.scratch / "no-maps"
    model.state = ExpertState(experts=model.state.experts, infos=model.state.infos)
    model.save_pretrained(folder)
    if not bare.exists():
        with_maps(0, setting.device).save_pretrained(bare)
    alone, ours = (measured("ours", path, setting) for path in (bare, folder))
    size = sum(file.stat().st_size for file in folder.glob("experts/*/*.safetensors")) / 2**20
    memory = ours["resident"] - alone["resident"]
    return {
        "experts": count,
        "load s": round(ours["load"], 2),
        "of it the maps s": round(ours["load"] - alone["load"], 2),
        "add one ms": round(1e3 * ours["add"], 1),
        "files MiB": round(size, 1),
        "memory of the experts MiB": round(memory, 1),
        "over files": round(memory / size, 2),
    }
