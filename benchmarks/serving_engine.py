"""The server with the engine: starting, one client and many, half load, memory; beside torch and the plain base.

    python benchmarks/serving_engine.py DATA OUT.json [--model MODEL] [--documents N] [--seconds N] [--rounds N]

Four servers take turns on this machine, each with clients in another process, which therefore takes a part of the
processor: ``engine``, ``engine int8`` and ``torch`` serve the same model of eight experts with an index of N documents
(texts real, vectors around centres, nothing is encoded), ``plain base`` the same base without experts, by the engine
too. Without MODEL the experts are random, which costs the same time. Takes nine minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from core import mixed_queries, surroundings
from speed_hybrid import filled
from speed_models import of_random_experts, route_to_all, with_experts
from speed_vectors import clustered

from routerretriever import RouterRetriever, compile_model
from routerretriever.cli.common import quiet_libraries

QUERIES, EXPERTS = 256, 8
CLIENTS = (1, 8, 32)
SERVERS = {
    "engine": ("model", "onnx"),
    "engine int8": ("model-int8", "onnx"),
    "torch": ("model", "torch"),
    "plain base": ("base", "onnx"),
}
LOAD = Path(__file__).with_name("serving_load.py")
_START = "import sys; from routerretriever.cli.app import app; app(sys.argv[1:])"


@dataclass(frozen=True, kw_only=True)
class Server:
    """A running server.

    Attributes:
        url: where it is.
        process: its process.
        seconds: from its start until it was ready.
        bodies: folder of request bodies: ``embeddings`` and ``search``.
    """

    url: str
    process: psutil.Process
    seconds: float
    bodies: Path

    def resident(self) -> float:
        """Return MiB of memory."""
        return round(self.process.memory_info().rss / 2**20, 1)

    def load(self, endpoint: str, mode: str, amount: float, seconds: float) -> dict[str, Any]:
        """Return what clients of an endpoint saw."""
        self.wait_until_idle()
        url, bodies = f"{self.url}/v1/{endpoint}", self.bodies / endpoint
        command = [sys.executable, str(LOAD), url, str(bodies), mode, str(amount), str(seconds)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    def wait_until_idle(self) -> None:
        """Wait until nothing is left of earlier requests."""
        while "routerretriever_waiting_requests 0.0" not in httpx.get(f"{self.url}/metrics").text:
            time.sleep(0.1)


def prepared(data: Path, root: Path, given: Path | None, documents: int) -> list[str]:
    """Write ``model``, ``base`` and ``index``, and return the queries."""
    queries = mixed_queries(data, QUERIES)
    plain = RouterRetriever.create(device="cpu")
    plain.save_pretrained(root / "base")
    model = of_random_experts(EXPERTS) if given is None else with_experts(given, EXPERTS)
    route_to_all(model, queries[:EXPERTS])
    model.save_pretrained(root / "model")
    for name in ("base", "model"):
        compile_model(root / name)
    shutil.copytree(root / "model", root / "model-int8")
    compile_model(root / "model-int8", precision="int8")
    filled(root, data, model, np.concatenate(list(clustered(documents, model.dimension, 1))))
    return queries


def write_bodies(folder: Path, queries: Sequence[str]) -> None:
    """Write what clients send to each endpoint, one body a line."""
    folder.mkdir()
    embeddings = [{"input": query, "model": "routed", "encoding_format": "base64"} for query in queries]
    searches = [{"query": query, "k": 10} for query in queries]
    for name, bodies in (("embeddings", embeddings), ("search", searches)):
        (folder / name).write_text("\n".join(map(json.dumps, bodies)) + "\n")


@contextmanager
def serving(root: Path, name: str) -> Iterator[Server]:
    """Run a server until it has been measured."""
    model, engine = SERVERS[name]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", _START, "serve", str(root / model), "--engine", engine]
    command += ["--port", str(port)]
    if model != "base":
        command += ["--index", str(root / "index")]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        while not _is_ready(url):
            if process.poll() is not None:
                raise SystemExit(f"The server '{name}' ended. Run: {' '.join(command)}")
            time.sleep(0.02)
        seconds = round(time.perf_counter() - started, 2)
        yield Server(url=url, process=psutil.Process(process.pid), seconds=seconds, bodies=root / "bodies")
    finally:
        process.terminate()
        process.wait()


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready").status_code == 200
    except httpx.TransportError:
        return False


def measured(server: Server, seconds: float) -> dict[str, Any]:
    """Return one round of a server: clients, half load, and memory before and after."""
    result: dict[str, Any] = {"ready s": server.seconds, "resident MiB when ready": server.resident()}
    for clients in CLIENTS:
        result[f"{clients} clients"] = server.load("embeddings", "closed", clients, seconds)
    most = result[f"{CLIENTS[-1]} clients"]["per second"]
    result["half load"] = server.load("embeddings", "open", most / 2, seconds)
    if "--index" in server.process.cmdline():
        result["1 client, search"] = server.load("search", "closed", 1, seconds)
        result["8 clients, search"] = server.load("search", "closed", 8, seconds)
    result["resident MiB after load"] = server.resident()
    result["threads"] = server.process.num_threads()
    return result


def medians(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the median of every figure."""
    found: dict[str, Any] = {}
    for key, value in rounds[0].items():
        column = [one[key] for one in rounds]
        found[key] = medians(column) if isinstance(value, dict) else round(statistics.median(column), 2)
    return found


def summary(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the figures that have a target."""
    return {
        name: _against(rows[name], rows["torch"], rows["plain base"]) for name in ("engine", "engine int8")
    }


def _against(engine: dict[str, Any], torch: dict[str, Any], plain: dict[str, Any]) -> dict[str, Any]:
    most = f"{CLIENTS[-1]} clients"
    rate = engine[most]["per second"]
    single = engine["1 clients"]["p50 ms"]
    return {
        "start to ready, s (target 3)": engine["ready s"],
        "p50 of one client, ms (target 15)": single,
        "the same with torch and of the plain base": [
            torch["1 clients"]["p50 ms"],
            plain["1 clients"]["p50 ms"],
        ],
        "throughput of 32 clients over torch (target 1.8)": round(rate / torch[most]["per second"], 2),
        "throughput of 32 clients over the plain base": round(rate / plain[most]["per second"], 2),
        "p99 at half load over p50 of one client (target 5)": round(
            engine["half load"]["p99 ms"] / single, 2
        ),
        "resident MiB when ready (target 400)": engine["resident MiB when ready"],
        "resident MiB after load": engine["resident MiB after load"],
    }


def main() -> None:
    """Run and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", type=Path, help="a model with experts")
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in SERVERS}
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        write_bodies(root / "bodies", prepared(args.data, root, args.model, args.documents))
        for _ in range(args.rounds):
            for name in SERVERS:
                with serving(root, name) as server:
                    rounds[name].append(measured(server, args.seconds))
                print(name, json.dumps(rounds[name][-1]), flush=True)
    rows = {name: medians(found) for name, found in rounds.items()}
    content = {
        "command": "python benchmarks/serving_engine.py DATA OUT.json",
        **surroundings(),
        "documents": args.documents,
        "summary": summary(rows),
        "servers": rows,
    }
    args.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(content["summary"], indent=1))


if __name__ == "__main__":
    quiet_libraries()
    main()
