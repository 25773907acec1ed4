"""Routed queries against the plain base, PEFT, and the paper's two passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from sentence_transformers import SentenceTransformer
from speed_models import route_to_all, saved_adapters, texts_of, with_experts
from speed_setting import Setting, said
from speed_timing import Machine, encoder_flops, linear_weights, paired, summary, using_threads
from torch.nn import functional as F

from routerretriever import RouterRetriever
from routerretriever.kernels.vectors import Vectors

# threads, tokens, batches, experts
GRID: Sequence[tuple[int, int, Sequence[int], Sequence[int]]] = (
    (2, 16, (1, 8, 64, 512), (1, 8, 64)),
    (2, 16, (1, 64), (512,)),
    (2, 4, (1, 64), (8,)),
    (2, 64, (1, 64), (8,)),
    (1, 16, (1, 64), (8, 64)),
)
TOLERANCE = 1e-4
PEFT_EXPERTS = 64  # beyond these PEFT takes minutes for a batch


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
        wanted = ("input_ids", "attention_mask", "token_type_ids")
        return {key: found[key].to(self.model.device) for key in wanted if key in found}

    def _pooled(self, features: dict[str, torch.Tensor], **kwargs: Any) -> torch.Tensor:
        hidden = self.model(**features, **kwargs).last_hidden_state
        mask = features["attention_mask"][..., None].float()
        return F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)

    @torch.inference_mode()
    def mixed(self, texts: Sequence[str], experts: Sequence[str]) -> Vectors:
        """One batch through ``adapter_names``."""
        vectors: Vectors = self._pooled(self._features(texts), adapter_names=list(experts)).cpu().numpy()
        return vectors

    @torch.inference_mode()
    def grouped(self, texts: Sequence[str], experts: Sequence[str]) -> Vectors:
        """``set_adapter`` for every expert of the batch, one after another."""
        names, vectors = np.array(experts), np.empty((len(texts), 384), np.float32)
        for name in dict.fromkeys(experts):
            rows = np.flatnonzero(names == name).tolist()
            self.model.set_adapter(name)
            vectors[rows] = self._pooled(self._features([texts[row] for row in rows])).cpu().numpy()
        return vectors


def agree(ours: Vectors, theirs: Vectors, what: str) -> float:
    """The largest difference, which must be that of rounding."""
    difference = float(np.abs(ours - theirs).max())
    if difference > TOLERANCE:
        raise SystemExit(f"{what} computes something else: vectors differ by {difference:.2g}.")
    return difference


def run(setting: Setting) -> dict[str, Any]:
    """The whole grid; vectors are compared before anything is timed."""
    base, rows = setting.base(), []
    for count in sorted({count for *_, counts in GRID for count in counts}):
        model = with_experts(setting.model, count, setting.device)
        peft = Peft(setting.base(), saved_adapters(model, setting.scratch)) if count <= PEFT_EXPERTS else None
        two_passes = with_experts(setting.model, count, setting.device)
        two_passes.encoder.route_layer = two_passes.encoder.num_layers
        systems = Systems(base, model, two_passes, peft)
        for threads, tokens, batches, counts in GRID:
            if count not in counts:
                continue
            texts = texts_of(model, setting.queries, 512, tokens)
            routed, _ = route_to_all(model, texts), route_to_all(two_passes, texts)
            machine = setting.machine(threads)
            with using_threads(threads):
                for batch in batches:
                    facts = {"threads": threads, "tokens": tokens, "batch": batch, "experts": count}
                    rows.append(said(facts | systems.measured(texts[:batch], routed[:batch], machine)))
    return {"rows": rows}


@dataclass(frozen=True)
class Systems:
    """What is compared."""

    base: SentenceTransformer
    model: RouterRetriever
    two_passes: RouterRetriever
    peft: Peft | None

    def measured(self, texts: list[str], experts: list[str], machine: Machine) -> dict[str, Any]:
        """One batch through all of them in turn."""
        batch, encoder = len(texts), self.model.encoder
        if not set(experts) <= set(encoder.state.experts):
            raise SystemExit("The benchmark's router was to send every text to an expert, and did not.")
        work: dict[str, Callable[[], Any]] = {
            "routed": lambda: self.model.encode_query(texts, batch_size=batch),
            "base": lambda: self.base.encode_query(texts, batch_size=batch),
            "two passes": lambda: self.two_passes.encode_query(texts, batch_size=batch),
        }
        if (peft := self.peft) is not None:
            work["peft adapter_names"] = lambda: peft.mixed(texts, experts)
            work["peft set_adapter"] = lambda: peft.grouped(texts, experts)
        ours = work["routed"]()
        compared = [name for name in work if name.startswith("peft")]
        difference = max((agree(ours, work[name](), name) for name in compared), default=None)
        length = len(encoder.tokenizer(texts[0])["input_ids"])
        transformer = encoder.body.model
        floor = max(
            encoder_flops(transformer, batch * length, length) / machine.fp32_per_second,
            4 * linear_weights(transformer) / machine.bytes_per_second,
        )
        return {
            "different experts": len(set(experts)),
            "largest difference to PEFT": difference,
            **summary(paired(work), "routed", floor),
        }
