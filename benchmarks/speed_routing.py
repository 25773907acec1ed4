"""Routing alone, against semantic-router's local index on the same vectors.

semantic-router cannot share this project's environment, so a process of its own answers through a pipe; the pipe's
delay, some tens of microseconds, stands in its figures.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from speed_models import library_for
from speed_setting import Setting, said
from speed_timing import paired, summary, using_threads

from routerretriever import RouterRetriever
from routerretriever.kernels.vectors import Vectors
from routerretriever.routing.policy import RoutingPolicy
from routerretriever.routing.routers import make_router

EXPERTS = (8, 64)
BATCHES = (1, 64)
PROGRAM = Path(__file__).with_name("semantic_router_peer.py")


class Peer:
    """semantic-router in its own process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def ask(self, batch: int) -> float:
        """Let it route the first so many queries; answers the share that went to the right route."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{batch}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())


@contextmanager
def semantic_router(python: Path, folder: Path, threads: int) -> Iterator[Peer]:
    """The peer, with the vectors of ``folder`` in its index."""
    command = [str(python), str(PROGRAM), str(folder)]
    limits = {f"{library}_NUM_THREADS": str(threads) for library in ("OMP", "OPENBLAS", "MKL")}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=os.environ | limits) as process:
        try:
            assert process.stdout
            process.stdout.readline()  # it is ready
            yield Peer(process)
        finally:
            assert process.stdin
            process.stdin.close()


def run(setting: Setting) -> dict[str, Any]:
    """A decision for 1 and for 64 queries over a library as large as real ones."""
    if setting.peers is None:
        return {"rows": [], "left out": "semantic-router: give --peers PYTHON, one that has it"}
    model = RouterRetriever.from_pretrained(setting.model, device="cpu")
    embeddings = model.route_embeddings(setting.queries)
    rows = []
    for count in EXPERTS:
        names = [f"e{number}" for number in range(count)]
        library = library_for(embeddings, names)
        policy = RoutingPolicy(make_router("gain", library), abstain=False)
        np.save(setting.scratch / "index.npy", library.centroids)
        np.save(setting.scratch / "queries.npy", embeddings)
        (setting.scratch / "routes.txt").write_text(
            "\n".join(names[row] for row in library.gains.argmax(axis=1))
        )
        (setting.scratch / "wanted.txt").write_text(
            "\n".join(names[n % count] for n in range(len(embeddings)))
        )
        for threads in (1, 2):
            with semantic_router(setting.peers, setting.scratch, threads) as peer, using_threads(threads):
                for batch in BATCHES:
                    row = _row(policy, embeddings[:batch], peer, setting.machine(threads))
                    facts = {"threads": threads, "experts": count, "pilots": len(library), "batch": batch}
                    rows.append(said(facts | row))
    return {"rows": rows}


def _row(policy: RoutingPolicy, embeddings: Vectors, peer: Peer, machine: Any) -> dict[str, Any]:
    count, batch = len(policy.library.experts), len(embeddings)
    wanted = np.arange(batch) % count + 2
    right = float((policy.decide(embeddings).chosen == wanted).mean())
    times = paired({"ours": lambda: policy.decide(embeddings), "semantic-router": lambda: peer.ask(batch)})
    compared = len(policy.library) * embeddings.shape[1] * 4
    floor = max(compared / machine.bytes_per_second, 2 * batch * compared / 4 / machine.fp32_per_second)
    agree = {"right": round(right, 3), "semantic-router right": round(peer.ask(batch), 3)}
    return {**agree, **summary(times, "ours", floor)}
