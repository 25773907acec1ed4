"""Bulk encoding: one process against a cluster's workers, the fixed cost of a job, and a large job's memory.

    python benchmarks/scale_ingest.py MODEL SOURCE OUT.json [--rounds N] [--large INDEX]

SOURCE is a folder of JSONL shards. The same documents are put into fresh indexes by one process on all cores and by
one-core workers of a local cluster, in turns, for two sizes: the larger minus the smaller is the rate once a job is
long, the rest its fixed cost. The most memory of each is kept too, to be set beside that of the large job. With --large
all of SOURCE goes into INDEX on the cluster instead; the driver is killed once in the middle and the job resumed, and
memory is watched from then on.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
from core import surroundings

CHUNK_ROWS = 8192
_DRIVER = """
import json, os, sys
from routerretriever import Index, RouterRetriever
from routerretriever.cli.common import quiet_libraries
from routerretriever.index.build.settings import BuildSettings
from routerretriever.progress import Bars
quiet_libraries()
model, index, source, cluster, workers, resume = sys.argv[1:]
settings = BuildSettings(resume=resume == "resume")
loaded, runner = RouterRetriever.from_pretrained(model), None
if cluster:
    from routerretriever.cluster import encode_on
    runner = encode_on(cluster, loaded, workers=int(workers))
report = Index.create(index, loaded, model_path=model).add(source, settings=settings, runner=runner, progress=Bars())
print(json.dumps({**report.to_dict(), "problems": len(report.problems)}), flush=True)
"""


def start(model: Path, index: Path, source: Path, cluster: str, workers: int, resume: bool = False) -> Any:
    """A driver in a session of its own, without a cache of embeddings that it could find."""
    given = [str(model), str(index), str(source), cluster, str(workers), "resume" if resume else ""]
    environment = {
        **os.environ,
        "ROUTERRETRIEVER_CACHE": str(index.parent / "cache"),
        "RAY_AUTH_MODE": "disabled",
    }
    return subprocess.Popen(
        [sys.executable, "-c", _DRIVER, *given],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
        start_new_session=True,
    )


def resident(process: psutil.Process) -> dict[str, float]:
    """MiB of the driver, of the largest worker, and of both with Ray's own processes."""
    found: dict[str, list[float]] = {"driver": [], "worker": [], "job": []}
    for other in [process, *process.children(recursive=True)]:
        try:
            size, title = other.memory_info().rss / 2**20, " ".join(other.cmdline())
        except psutil.NoSuchProcess:
            continue
        found["job"].append(size)
        if other == process:
            found["driver"].append(size)
        elif title.startswith("ray::MapWorker"):
            found["worker"].append(size)
    return {name: sum(sizes) if name == "job" else max(sizes, default=0.0) for name, sizes in found.items()}


def finished(running: Any, peaks: dict[str, float] | None = None) -> dict[str, Any]:
    """The report of a driver; ``peaks`` keeps the most memory seen."""
    process = psutil.Process(running.pid)
    while peaks is not None and running.poll() is None:
        try:
            found = resident(process)
        except psutil.NoSuchProcess:
            break
        for name, size in found.items():
            peaks[name] = round(max(size, peaks.get(name, 0.0)), 1)
        time.sleep(2)
    out, _ = running.communicate()
    if running.returncode:
        raise RuntimeError(
            "The build failed; run it by hand to see why: routerretriever index … --cluster local"
        )
    report: dict[str, Any] = json.loads(out.splitlines()[-1])
    return report


def head(source: Path, folder: Path, count: int) -> Path:
    """The first documents of a source, in a file."""
    lines = (line for shard in sorted(source.glob("*.jsonl")) for line in shard.open(encoding="utf-8"))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"first-{count}.jsonl"
    path.write_text("".join(islice(lines, count)), encoding="utf-8")
    return path


def timed(
    model: Path,
    source: Path,
    scratch: Path,
    cluster: str,
    workers: int,
    peaks: dict[str, float] | None = None,
) -> float:
    """Seconds of a whole build, from start to end of the process."""
    folder = Path(tempfile.mkdtemp(dir=scratch))
    begun = time.perf_counter()
    finished(start(model, folder / "index", source, cluster, workers), peaks)
    seconds = time.perf_counter() - begun
    shutil.rmtree(folder)
    return seconds


def throughput(model: Path, source: Path, rounds: int, scratch: Path) -> dict[str, Any]:
    """One process with all cores against as many one-core workers, in turns."""
    cores = os.cpu_count() or 1
    # Every worker has as much to do as the others.
    counts = {"small": cores * CHUNK_ROWS, "large": 3 * cores * CHUNK_ROWS}
    sizes = {size: head(source, scratch, count) for size, count in counts.items()}
    systems = {"one process": "", f"{cores} workers": "local"}
    seconds: dict[str, dict[str, list[float]]] = {name: {size: [] for size in sizes} for name in systems}
    peaks: dict[str, dict[str, dict[str, float]]] = {name: {size: {} for size in sizes} for name in systems}
    for _ in range(rounds):
        for size, path in sizes.items():
            for name, cluster in systems.items():
                took = timed(model, path, scratch, cluster, cores, peaks[name][size])
                seconds[name][size].append(round(took, 2))
                print(name, size, seconds[name][size][-1], peaks[name][size], flush=True)
    rows = {name: {**_rate(took, counts), "peak_mib": peaks[name]} for name, took in seconds.items()}
    here, there = rows.values()
    ratio = there["documents_per_second"] / here["documents_per_second"]
    return {"documents": counts, "systems": rows, "ratio": round(ratio, 3)}


def _rate(took: dict[str, list[float]], counts: dict[str, int]) -> dict[str, Any]:
    small, large = statistics.median(took["small"]), statistics.median(took["large"])
    rate = (counts["large"] - counts["small"]) / (large - small)
    return {
        "documents_per_second": round(rate, 1),
        "fixed_seconds": round(large - counts["large"] / rate, 1),
        "seconds": took,
    }


def large(model: Path, source: Path, index: Path) -> dict[str, Any]:
    """The whole source on a cluster, its driver killed once."""
    cores, peaks, begun = os.cpu_count() or 1, dict[str, float](), time.perf_counter()
    index.parent.mkdir(parents=True, exist_ok=True)
    running = start(model, index, source, "local", cores)
    killed_at = _kill_after(running, index, chunks=30)
    print("killed after", round(killed_at), "s", flush=True)
    report = finished(start(model, index, source, "local", cores, resume=True), peaks)
    print(report, peaks, flush=True)
    return {
        "report": report,
        "killed_after_seconds": round(killed_at),
        "seconds": round(time.perf_counter() - begun),
        "peak_mib": peaks,
    }


def _kill_after(running: Any, index: Path, chunks: int) -> float:
    begun = time.perf_counter()
    while len(list(_records(index))) < chunks:
        if running.poll() is not None:
            raise RuntimeError("The build ended before it could be killed; give it more documents.")
        time.sleep(1)
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()
    return time.perf_counter() - begun


def _records(index: Path) -> Iterator[Path]:
    return (path for path in index.glob("_builds/*/*") if not path.name.startswith("."))


def main() -> None:
    """Run and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("model", "source", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--large", type=Path, metavar="INDEX")
    given = parser.parse_args()
    known = json.loads(given.out.read_text(encoding="utf-8")) if given.out.exists() else {}
    if given.large:
        known["large"] = large(given.model, given.source, given.large)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            known["throughput"] = throughput(given.model, given.source, given.rounds, Path(scratch))
    command = "python benchmarks/scale_ingest.py MODEL SOURCE OUT.json [--rounds N] [--large INDEX]"
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(
        json.dumps({"command": command, **surroundings(), **known}, indent=1) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
