"""The engine without torch: queries, documents and starting, beside the plain base with ONNX Runtime and torch.

The plain base is exported as a single graph with pooling inside, which is what one would do without experts.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from speed_maps import with_maps
from speed_models import route_to_all, texts_of, with_experts
from speed_setting import Setting, said
from speed_timing import paired, summary, using_threads
from torch import Tensor, nn
from torch.nn import functional as F

from routerretriever import RouterRetriever, compile_model, open_model
from routerretriever.kernels.vectors import Vectors

THREADS, TOKENS = 2, 16
# experts, batches, whether they are maps
GRID: Sequence[tuple[int, Sequence[int], bool]] = (
    (8, (1, 8, 64), False),
    (64, (1, 64), False),
    (512, (1, 64), False),
    (8, (1, 64), True),
)
DOCUMENTS = 256
TOLERANCE = 1e-4
_START = "import sys; from routerretriever.cli.app import app; app(sys.argv[1:])"


class PlainBase:
    """The base alone as one graph of ONNX Runtime, with its own tokeniser."""

    def __init__(self, base: Any, scratch: Path) -> None:
        class Whole(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = base[0].model

            def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
                found = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
                mask = attention_mask[..., None].float()
                return F.normalize((found * mask).sum(1) / mask.sum(1), dim=-1)

        base[0].model.config._attn_implementation = "eager"
        ids = torch.randint(1000, 2000, (2, 7))
        path = scratch / "plain.onnx"
        torch.onnx.export(
            Whole().eval(),
            (ids, torch.ones_like(ids)),
            str(path),
            input_names=["input_ids", "attention_mask"],
            output_names=["vectors"],
            dynamic_axes={"input_ids": {0: "n", 1: "t"}, "attention_mask": {0: "n", 1: "t"}},
            dynamo=False,
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        # Threads that spin after a run would take the processor from whoever is measured next.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.tokenizer = base.tokenizer

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return vectors (n, d) of one batch."""
        found = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=256, return_tensors="np"
        )
        given = {name: found[name].astype(np.int64) for name in ("input_ids", "attention_mask")}
        vectors: Vectors = self.session.run(None, given)[0]
        return vectors


def run(setting: Setting) -> dict[str, Any]:
    """Queries by models of several sizes, documents, and what starting takes."""
    base, plain = setting.base(), PlainBase(setting.base(), setting.scratch)
    rows = []
    for count, batches, maps in GRID:
        kind = "map" if maps else "lora"
        folder = setting.scratch / f"{kind}-{count}"
        model = with_maps(count, "cpu") if maps else with_experts(setting.model, count)
        texts = texts_of(model, setting.queries, max(batches), TOKENS)
        route_to_all(model, texts)
        model.save_pretrained(folder)
        compile_model(folder)
        started = time.perf_counter()
        engine = open_model(folder, engine="onnx")
        load = round(time.perf_counter() - started, 2)
        for batch in batches:
            some = texts[:batch]
            _check(engine.encode_query(some), model.encode_query(some), "the engine")
            _check(plain.encode(some), base.encode_query(some), "the plain graph")
            systems: dict[str, Callable[[], Any]] = {
                "engine": lambda some=some, engine=engine: engine.encode_query(some, batch_size=len(some)),  # type: ignore[misc]
                "onnxruntime base": lambda some=some: plain.encode(some),  # type: ignore[misc]
                "sentence-transformers base": lambda some=some: base.encode_query(some, batch_size=len(some)),  # type: ignore[misc]
                "torch routed": lambda some=some, model=model: model.encode_query(some, batch_size=len(some)),  # type: ignore[misc]
            }
            with using_threads(THREADS):
                times = paired(systems)
            facts = {"kind": kind, "experts": count, "batch": batch, "threads": THREADS, "load s": load}
            rows.append(said(facts | summary(times, "engine")))
    rows.append(said(_documents(setting, base)))
    return {"rows": rows, "starting": said(_starting(setting))}


def _check(ours: Vectors, theirs: Vectors, what: str) -> None:
    difference = float(np.abs(ours - theirs).max())
    if difference > TOLERANCE:
        raise SystemExit(f"{what} computes something else: vectors differ by {difference:.2g}.")


def _documents(setting: Setting, base: Any) -> dict[str, Any]:
    """Real documents, each encoded once in a round."""
    engine = open_model(setting.scratch / "lora-8", engine="onnx")
    model = RouterRetriever.from_pretrained(setting.scratch / "lora-8")
    texts = setting.collection("scifact").contents[:DOCUMENTS]
    systems: dict[str, Callable[[], Any]] = {
        "engine": lambda: engine.encode_in_bulk(texts),
        "sentence-transformers base": lambda: base.encode_document(texts),
        "torch routed": lambda: model.encode_in_bulk(texts),
    }
    with using_threads(THREADS):
        times = paired(systems, rounds=3)
    return {"documents": DOCUMENTS, "threads": THREADS, **summary(times, "engine")}


def _starting(setting: Setting) -> dict[str, Any]:
    """Return the seconds of whole commands: a search by the engine and by torch, the best of three."""
    folder, index = setting.scratch / "lora-8", setting.scratch / "index"
    _command("index", "add", str(folder), str(index), str(setting.data / "bankfaq"))
    seconds = {}
    for engine in ("onnx", "torch"):
        took = []
        for _ in range(3):
            started = time.perf_counter()
            _command("search", str(index), "how do I block my card", "--engine", engine)
            took.append(time.perf_counter() - started)
        seconds[f"search, {engine}, s"] = round(min(took), 2)
    return seconds


def _command(*arguments: str) -> None:
    subprocess.run([sys.executable, "-c", _START, *arguments], check=True, capture_output=True)
