"""One system of the engine's benchmark, in a process of its own, which sleeps while others are measured.

    python benchmarks/speed_worker.py SYSTEM FOLDER THREADS

Reads requests from standard input, one JSON object a line: ``texts``; ``kind``, which is query or document;
``experts``, for PEFT; ``repeats``; and ``vectors``, a file that they are written to. Answers each with the seconds of
one repetition, and the processor's.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Encode = Callable[[Sequence[str], str, Sequence[str]], Any]
"""Texts, their kind and their experts → vectors (n, d)."""


def engine(folder: Path, threads: int) -> Encode:
    """Return the engine of a compiled model."""
    from routerretriever import open_model

    return _of_ours(open_model(folder, engine="onnx", threads=threads))


def engine_int8(folder: Path, threads: int) -> Encode:
    """Return the engine of a model that was compiled in 8 bits, documents included."""
    from routerretriever import open_model

    return _of_ours(open_model(folder, engine="onnx", threads=threads), precision="int8")


def torch_routed(folder: Path, threads: int) -> Encode:
    """Return the same model by torch."""
    from routerretriever import open_model

    _use_threads(threads)
    return _of_ours(open_model(folder, engine="torch", device="cpu"))


def _of_ours(model: Any, **documents: str) -> Encode:
    def encode(texts: Sequence[str], kind: str, experts: Sequence[str]) -> Any:
        if kind == "document":
            return model.encode_in_bulk(texts, **documents)
        return model.encode_query(texts, batch_size=len(texts))

    return encode


def onnxruntime_base(folder: Path, threads: int) -> Encode:
    """Return the plain graph of the base."""
    from plain_base import GRAPH

    return _plain(folder, threads, GRAPH)


def onnxruntime_base_int8(folder: Path, threads: int) -> Encode:
    """Return the plain graph of the base in 8 bits."""
    from plain_base import GRAPH_INT8

    return _plain(folder, threads, GRAPH_INT8)


def _plain(folder: Path, threads: int, graph: str) -> Encode:
    from plain_base import PlainBase

    plain = PlainBase(folder, threads, graph)
    return lambda texts, kind, experts: plain.encode_in_bulk(texts, 64 if kind == "query" else 32)


def sentence_transformers_base(folder: Path, threads: int) -> Encode:
    """Return the base in Sentence Transformers."""
    from routerretriever.encoder.base_models import load_base

    _use_threads(threads)
    base: Any = load_base("all-MiniLM-L6-v2", "cpu").eval()

    def encode(texts: Sequence[str], kind: str, experts: Sequence[str]) -> Any:
        if kind == "document":
            return base.encode_document(texts)
        return base.encode_query(texts, batch_size=len(texts))

    return encode


def peft(folder: Path, threads: int) -> Encode:
    """Return base and adapters in PEFT, with ``adapter_names``."""
    from speed_queries import Peft

    from routerretriever.encoder.base_models import load_base

    _use_threads(threads)
    made = Peft(load_base("all-MiniLM-L6-v2", "cpu").eval(), sorted(folder.iterdir()))
    return lambda texts, kind, experts: made.mixed(texts, experts)


def fastembed(folder: Path, threads: int) -> Encode:
    """Return fastembed with the plain graph, which has pooling inside."""
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    TextEmbedding.add_custom_model(
        model="plain",
        pooling=PoolingType.DISABLED,
        normalization=False,
        sources=ModelSource(hf="nobody/plain"),
        dim=384,
        model_file="model.onnx",
    )
    model = TextEmbedding("plain", specific_model_path=str(folder), threads=threads)
    return lambda texts, kind, experts: np.array(list(model.embed(texts, batch_size=len(texts))))


def _use_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


SYSTEMS: dict[str, Callable[[Path, int], Encode]] = {
    "engine": engine,
    "engine int8": engine_int8,
    "torch routed": torch_routed,
    "onnxruntime base": onnxruntime_base,
    "onnxruntime base int8": onnxruntime_base_int8,
    "sentence-transformers base": sentence_transformers_base,
    "peft adapter_names": peft,
    "fastembed base": fastembed,
}


def main() -> None:
    """Answer requests until there are no more."""
    name, folder, threads = sys.argv[1:]
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print to it
    started = time.perf_counter()
    encode = SYSTEMS[name](Path(folder), int(threads))
    print(json.dumps({"load s": round(time.perf_counter() - started, 2)}), file=answers, flush=True)
    for line in sys.stdin:
        given = json.loads(line)
        texts, kind, experts = given["texts"], given["kind"], given.get("experts", [])
        if "vectors" in given:
            np.save(given["vectors"], np.asarray(encode(texts, kind, experts), np.float32))
        wall, processor = time.perf_counter(), time.process_time()
        for _ in range(given["repeats"]):
            encode(texts, kind, experts)
        found = (time.perf_counter() - wall, time.process_time() - processor)
        print(json.dumps([value / max(1, given["repeats"]) for value in found]), file=answers, flush=True)


if __name__ == "__main__":
    main()
