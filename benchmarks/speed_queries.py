"""Routed queries against the plain base, PEFT, and the paper's two passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from core import mixed_queries
from peft import PeftModel
from speed_models import route_to_all, texts_of, with_experts
from speed_timing import Machine, encoder_flops, paired, summary, using_threads
from torch.nn import functional as F

from routerretriever import RouterRetriever
from routerretriever.base_models import load_base
from routerretriever.lora import save_adapter
from routerretriever.vectors import Vectors

# threads, tokens, batches, experts
GRID: Sequence[tuple[int, int, Sequence[int], Sequence[int]]] = (
    (2, 16, (1, 8, 64, 512), (1, 8, 64, 512)),
    (2, 4, (1, 64, 512), (8,)),
    (2, 64, (1, 64), (8,)),
    (1, 16, (1, 64), (8, 64)),
)
TOLERANCE = 1e-4


class Peft:
    """Base and PEFT adapters, the way its documentation serves several of them."""

    def __init__(self, base: Any, folders: Sequence[Path]) -> None:
        transformer = base[0]
        first, *rest = folders
        self.model = PeftModel.from_pretrained(transformer.model, str(first), adapter_name=first.name)
        for folder in rest:
            self.model.load_adapter(str(folder), adapter_name=folder.name)
        self.model.eval()
        self.transformer = transformer

    def _features(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = self.transformer.preprocess(list(texts))
        return {key: found[key] for key in ("input_ids", "attention_mask", "token_type_ids") if key in found}

    def _pooled(self, features: dict[str, torch.Tensor], **kwargs: Any) -> torch.Tensor:
        hidden = self.model(**features, **kwargs).last_hidden_state
        mask = features["attention_mask"][..., None].float()
        return F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)

    @torch.inference_mode()
    def mixed(self, texts: Sequence[str], experts: Sequence[str]) -> Vectors:
        """One batch through ``adapter_names``."""
        vectors: Vectors = self._pooled(self._features(texts), adapter_names=list(experts)).numpy()
        return vectors

    @torch.inference_mode()
    def grouped(self, texts: Sequence[str], experts: Sequence[str]) -> Vectors:
        """``set_adapter`` for every expert of the batch, one after another."""
        names, vectors = np.array(experts), np.empty((len(texts), 384), np.float32)
        for name in dict.fromkeys(experts):
            rows = np.flatnonzero(names == name).tolist()
            self.model.set_adapter(name)
            vectors[rows] = self._pooled(self._features([texts[row] for row in rows])).numpy()
        return vectors


def saved_adapters(model: RouterRetriever, folder: Path) -> list[Path]:
    """The model's experts as PEFT folders."""
    folders = []
    for name, adapter in model.encoder.experts.items():
        if not (folder / name / "adapter_model.safetensors").exists():
            save_adapter(adapter, folder / name, base=model.encoder.base.id, revision=None)
        folders.append(folder / name)
    return folders


def agree(ours: Vectors, theirs: Vectors, what: str) -> float:
    """The largest difference, which must be that of rounding."""
    difference = float(np.abs(ours - theirs).max())
    if difference > TOLERANCE:
        raise SystemExit(f"{what} computes something else: vectors differ by {difference:.2g}.")
    return difference


def run(path: Path, data: Path, scratch: Path) -> dict[str, Any]:
    """The whole grid; vectors are compared before anything is timed."""
    base = load_base("all-MiniLM-L6-v2", "cpu")
    queries = mixed_queries(data)
    rows = []
    for count in sorted({count for *_, counts in GRID for count in counts}):
        model = with_experts(path, count)
        peft = Peft(load_base("all-MiniLM-L6-v2", "cpu"), saved_adapters(model, scratch))
        two_passes = with_experts(path, count)
        two_passes.encoder.route_layer = two_passes.encoder.num_layers
        for threads, tokens, batches, counts in GRID:
            if count not in counts:
                continue
            texts = texts_of(model, queries, 512, tokens)
            routed, _ = route_to_all(model, texts), route_to_all(two_passes, texts)
            machine = Machine.measured(threads)
            with using_threads(threads):
                for batch in batches:
                    row = _row(base, model, two_passes, peft, texts, routed, batch, machine)
                    rows.append({"threads": threads, "tokens": tokens, "batch": batch, "experts": count} | row)
                    print(rows[-1], flush=True)
    return {"rows": rows}


def _row(
    base: Any,
    model: RouterRetriever,
    two_passes: RouterRetriever,
    peft: Peft,
    texts: Sequence[str],
    routed: Sequence[str],
    batch: int,
    machine: Machine,
) -> dict[str, Any]:
    part, experts = list(texts[:batch]), list(routed[:batch])
    length = len(model.encoder.tokenizer(part[0])["input_ids"])
    ours = model.encode_query(part, batch_size=batch)
    systems: dict[str, Callable[[], Any]] = {
        "routed": lambda: model.encode_query(part, batch_size=batch),
        "base": lambda: base.encode_query(part, batch_size=batch),
        "two passes": lambda: two_passes.encode_query(part, batch_size=batch),
        "peft adapter_names": lambda: peft.mixed(part, experts),
        "peft set_adapter": lambda: peft.grouped(part, experts),
    }
    named = [expert for expert in experts if expert in model.encoder.experts]
    if len(named) < len(experts):
        raise SystemExit("The benchmark's router was to send every text to an expert, and did not.")
    difference = max(agree(ours, peft.mixed(part, experts), "PEFT"), agree(ours, peft.grouped(part, experts), "PEFT"))
    floor = encoder_flops(model.encoder.transformer.model, batch * length, length) / machine.fp32_per_second
    return {
        "different experts": len(set(experts)),
        "largest difference to PEFT": difference,
        **summary(paired(systems), "routed", floor),
    }
