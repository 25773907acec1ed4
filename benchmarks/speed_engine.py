"""The engine without torch: queries, documents and starting, beside what a user would pick instead.

Every system is a process of its own (``speed_worker.py``), and they take turns. The plain base is a single graph of
ONNX Runtime with pooling inside, which is what one would serve without experts; fastembed runs the same graph where
the Python of ``--peers`` has it. In 8 bits are the queries of a model that was compiled so, and the plain graph as
ONNX Runtime quantises it. Takes ten minutes on two quiet cores.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from plain_base import export_plain, quantise_plain
from speed_maps import with_maps
from speed_models import route_to_all, saved_adapters, texts_of, with_experts
from speed_setting import Setting, said
from speed_timing import Machine, encoder_flops, linear_weights, summary

from routerretriever import compile_model

THREADS, TOKENS = 2, 16
# experts, batches, whether they are maps
GRID: Sequence[tuple[int, Sequence[int], bool]] = (
    (8, (1, 8, 64), False),
    (64, (1, 64), False),
    (512, (1, 64), False),
    (8, (1, 64), True),
)
DOCUMENTS = 128
PEFT_EXPERTS = 8  # of more it takes minutes to load
TOLERANCE = 1e-4
TOLERANCE_INT8 = 0.1
"""Of one number of a vector: a difference says that something else is computed, not how good it is."""
_OURS = {"engine": "fp32", "engine int8": "int8"}
_ROUTED = (*_OURS, "torch routed")
_BASES = ("onnxruntime base", "onnxruntime base int8", "sentence-transformers base")
_EXACT = ("engine", "torch routed", "onnxruntime base", "sentence-transformers base")
ROUNDS = {1: 30, 8: 15, 64: 9}
_AT_LEAST = 0.05  # seconds of one measurement; short work is repeated
_START = "import sys; from routerretriever.cli.app import app; app(sys.argv[1:])"


class Worker:
    """A system in a process of its own.

    Attributes:
        load: seconds that it took to load.
    """

    def __init__(self, name: str, folder: Path, python: str = sys.executable) -> None:
        script = Path(__file__).with_name("speed_worker.py")
        self._process = subprocess.Popen(
            [python, script, name, folder, str(THREADS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )
        self.name = name
        self.load = float(self._answer()["load s"])

    def seconds(self, asked: Mapping[str, Any], repeats: int, vectors: Path | None = None) -> list[float]:
        """Return the seconds of one repetition, by the clock and of the processor."""
        given = {**asked, "repeats": repeats} | ({} if vectors is None else {"vectors": str(vectors)})
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(given) + "\n")
        self._process.stdin.flush()
        found: list[float] = self._answer()
        return found

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"The process of '{self.name}' ended.")
        return json.loads(line)


def run(setting: Setting) -> dict[str, Any]:
    """Queries by models of several sizes, documents, and what starting takes."""
    base: Any = setting.base()
    plain = _plain(base, setting.scratch)
    with ExitStack() as stack:
        peers = {name: stack.enter_context(_running(name, plain)) for name in _BASES}
        if setting.peers is not None and _has_fastembed(setting.peers):
            name = "fastembed base"
            peers[name] = stack.enter_context(_running(name, plain, str(setting.peers)))
        rows: list[dict[str, Any]] = []
        documents: list[dict[str, Any]] = []
        for count, batches, maps in GRID:
            asked, folder = _prepared(setting, count, max(batches), maps)
            with ExitStack() as own:
                folders = dict.fromkeys(_ROUTED, folder) | {"engine int8": _in_int8(folder)}
                systems = {name: own.enter_context(_running(name, folders[name])) for name in _ROUTED}
                facts: dict[str, Any] = {"kind": "map" if maps else "lora", "experts": count}
                facts |= {"threads": THREADS}
                if count <= PEFT_EXPERTS and not maps:
                    name = "peft adapter_names"
                    systems[name] = own.enter_context(_running(name, setting.scratch / "peft"))
                for batch in batches:
                    some = {key: value[:batch] for key, value in asked.items()} | {"kind": "query"}
                    times = _paired({**systems, **peers}, some, ROUNDS[batch], setting.scratch)
                    floor = _floor(setting, base[0].model, batch)
                    for ours, precision in _OURS.items():
                        others = {
                            name: took for name, took in times.items() if name not in _OURS or name == ours
                        }
                        found = _summary(others, floor, ours)
                        more = {"precision": precision, "load s": systems[ours].load, "batch": batch}
                        rows.append(said(facts | more | found))
                if not documents:
                    documents = _documents(setting, {**systems, **peers})
    return {"rows": rows, "documents": documents, "starting": [said(_starting(setting))]}


def _plain(base: Any, scratch: Path) -> Path:
    """Write the plain graph, with all that fastembed reads beside it."""
    folder = scratch / "plain"
    export_plain(base, folder)
    quantise_plain(folder)
    base.tokenizer.save_pretrained(folder)
    base[0].model.config.save_pretrained(folder)
    return folder


def _prepared(setting: Setting, count: int, most: int, maps: bool) -> tuple[dict[str, list[str]], Path]:
    """Write a compiled model; return texts with the experts that they go to, and its folder."""
    folder = setting.scratch / f"{'map' if maps else 'lora'}-{count}"
    model = with_maps(count, "cpu") if maps else with_experts(setting.model, count)
    texts = texts_of(model, setting.queries, most, TOKENS)
    experts = route_to_all(model, texts)
    model.save_pretrained(folder)
    compile_model(folder)
    if count <= PEFT_EXPERTS and not maps:
        saved_adapters(model, setting.scratch / "peft")
    return {"texts": texts, "experts": experts}, folder


def _in_int8(folder: Path) -> Path:
    """Return a copy of a model that is compiled with its queries in 8 bits."""
    copy = folder.with_name(f"{folder.name}-int8")
    shutil.copytree(folder, copy)
    compile_model(copy, precision="int8")
    return copy


@contextmanager
def _running(name: str, folder: Path, python: str = sys.executable) -> Iterator[Worker]:
    worker = Worker(name, folder, python)
    try:
        yield worker
    finally:
        worker.close()


def _has_fastembed(python: Path) -> bool:
    return (
        subprocess.run([python, "-c", "import fastembed"], capture_output=True, check=False).returncode == 0
    )


def _paired(
    systems: Mapping[str, Worker], asked: Mapping[str, Any], rounds: int, scratch: Path
) -> dict[str, list[list[float]]]:
    """Return the seconds of each system in every round, after one in which their vectors are compared."""
    repeats: dict[str, int] = {}
    vectors: dict[str, Any] = {}
    for name, worker in systems.items():
        file = scratch / "vectors.npy"
        first = worker.seconds(asked, 1, file)[0]
        repeats[name] = max(1, round(_AT_LEAST / first))
        vectors[name] = np.load(file)
    for name in systems:
        routed = name in _ROUTED or name.startswith("peft")
        wanted = "engine" if routed and asked["kind"] == "query" else "sentence-transformers base"
        difference = float(np.abs(vectors[name] - vectors[wanted]).max())
        if difference > (TOLERANCE_INT8 if name.endswith("int8") else TOLERANCE):
            raise SystemExit(f"'{name}' computes something else: vectors differ by {difference:.2g}.")

    times: dict[str, list[list[float]]] = {name: [] for name in systems}
    for number in range(rounds):
        for name in systems if number % 2 else reversed(list(systems)):
            times[name].append(systems[name].seconds(asked, repeats[name]))
    return times


def _summary(
    times: Mapping[str, list[list[float]]], floor: float | None = None, ours: str = "engine"
) -> dict[str, Any]:
    """Return what :func:`speed_timing.summary` does, and the processor's milliseconds."""
    by_clock = {name: [pair[0] for pair in pairs] for name, pairs in times.items()}
    processor = {
        name: round(1e3 * statistics.median([pair[1] for pair in pairs]), 2) for name, pairs in times.items()
    }
    return summary(by_clock, ours, floor) | {"processor ms": processor}


def _floor(setting: Setting, transformer: Any, batch: int) -> float:
    """Return the least seconds that a batch could take."""
    machine = _machine(setting)
    arithmetic = encoder_flops(transformer, batch * TOKENS, TOKENS) / machine.fp32_per_second
    return max(arithmetic, 4 * linear_weights(transformer) / machine.bytes_per_second)


@cache
def _machine(setting: Setting) -> Machine:
    return setting.machine(THREADS)


def _documents(setting: Setting, systems: Mapping[str, Worker]) -> list[dict[str, Any]]:
    """Real documents, each encoded once in a round; a row for each precision."""
    texts = setting.collection("scifact").contents[:DOCUMENTS]
    # fastembed cuts them off elsewhere, and PEFT has no path for them.
    compared = {name: systems[name] for name in (*_EXACT, "engine int8")}
    times = _paired(compared, {"texts": texts, "kind": "document"}, 5, setting.scratch)
    rows = []
    for ours, precision in _OURS.items():
        others = {name: took for name, took in times.items() if name not in _OURS or name == ours}
        facts = {"documents": DOCUMENTS, "threads": THREADS, "precision": precision}
        rows.append(said({**facts, **_summary(others, None, ours)}))
    return rows


def _starting(setting: Setting) -> dict[str, Any]:
    """Return the seconds of whole commands: a search by the engine and by torch, the best of three."""
    folder, index = setting.scratch / "lora-8", setting.scratch / "index"
    _command("index", "add", str(folder), str(index), str(setting.data / "bankfaq"))
    seconds = {}
    for engine in ("onnx", "torch"):
        took = [
            _command("search", str(index), "how do I block my card", "--engine", engine) for _ in range(3)
        ]
        seconds[f"search, {engine}, s"] = round(min(clock for clock, _ in took), 2)
        seconds[f"search, {engine}, processor s"] = round(min(processor for _, processor in took), 2)
    return seconds


def _command(*arguments: str) -> tuple[float, float]:
    """Return the seconds of a command, by the clock and of the processor."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-c", _START, *arguments], check=True, capture_output=True)
    clock, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return clock, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
