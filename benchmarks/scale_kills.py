"""kill -9 at random moments of upsert, delete, compaction and index build: what was acknowledged has to be there.

    python benchmarks/scale_kills.py OUT.json [--kills N] [--seed S]

A child process writes blocks into one index and acknowledges each on its standard output once the call has returned.
After a random time it is killed, and another process (this one) reads everything: every acknowledged block has to be
whole, the one under way has to be there as a whole or not at all, every vector has to be that of its text, and searches
have to work. This shows what the death of a process does; a power cut is another matter, see ``Index.flush``.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lance
import numpy as np

from routerretriever.data.document import Document
from routerretriever.index.connection import dataset_uri
from routerretriever.index.index import Index

if TYPE_CHECKING:
    from routerretriever.kernels.vectors import Vectors

BLOCK = 20
VERBS = ("upsert", "delete", "compact", "build")
KINDS = ("ivf_rq", "ivf_flat", "ivf_pq")
LONGEST = 0.6  # seconds until the kill, at most
_CHILD = "import sys; from scale_kills import child; child(*sys.argv[1:])"


# -- the writer ------------------------------------------------------------------------------------


def vectors_of(texts: list[str], dimension: int) -> Vectors:
    """One vector for every text, the same every time; no model is needed."""
    rows = [np.random.default_rng(int(text.split()[0])).normal(size=dimension) for text in texts]
    return np.asarray(rows, dtype=np.float32)


def child(dimension: str) -> None:
    """Wait for what to do on standard input, then do it until killed."""
    print("ready", flush=True)
    uri, verb, start = sys.stdin.readline().rstrip("\n").split("\t")
    index, at = Index.open(uri), int(start)
    while True:
        for done in step(index, verb, at, int(dimension)):
            print(done, at, flush=True)
        at += BLOCK


def step(index: Index, verb: str, at: int, dimension: int) -> Iterator[str]:
    """One round of a verb; what is yielded has been done."""
    block = [Document(f"d{at + k}", f"{at + k} round {at}") for k in range(BLOCK - 1)]
    shared = Document("shared", f"{at} round {at}")  # which every round replaces
    index.upsert([*block, shared], encode=lambda texts: vectors_of(texts, dimension))
    yield "upsert"
    if verb == "delete":
        index.delete(f"d{at + k}" for k in range(0, BLOCK - 1, 2))
        yield "delete"
    elif verb == "compact":
        index.compact()
        yield "compact"
    elif verb == "build":
        index.build_index(KINDS[at // BLOCK % len(KINDS)])
        index.build_text_index()
        yield "build"


# -- the one who kills and looks -------------------------------------------------------------------


@dataclass
class Kills:
    """An index under fire, and what its writers have acknowledged."""

    uri: str
    dimension: int
    random: random.Random
    blocks: dict[int, str] = field(default_factory=dict)
    next_block: int = 0
    waiting: deque[subprocess.Popen[str]] = field(default_factory=deque)

    def close(self) -> None:
        """End the children that were not needed."""
        for process in self.waiting:
            process.kill()
            process.communicate()

    def once(self, verb: str) -> dict[str, Any]:
        """Start a writer, kill it at a random moment, and check the index; answers what was found."""
        while len(self.waiting) < 2:  # the second starts up while the first one is at work
            self.waiting.append(self._spawn())
        process, delay = self.waiting.popleft(), self.random.uniform(0.0, LONGEST)
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None and stdout is not None
        stdout.readline()
        start = self.next_block
        stdin.write(f"{self.uri}\t{verb}\t{start}\n")
        stdin.flush()
        time.sleep(delay)
        ended = process.poll()
        process.kill()
        lines = stdout.read().splitlines()
        process.wait()
        stdin.close()
        stdout.close()
        done = [line.split() for line in lines]
        for word, at in done:
            self.blocks[int(at)] = (
                "delete" if word == "delete" or self.blocks.get(int(at)) == "delete" else "upsert"
            )
        whole = [int(at) for word, at in done if word == verb]
        under_way = max(whole) + BLOCK if whole else start
        self.next_block = under_way + BLOCK
        faults = self.check(verb, under_way)
        if ended is not None:
            faults.append(f"the writer ended by itself with {ended}")
        return {"verb": verb, "after_seconds": round(delay, 3), "acknowledged": len(done), "faults": faults}

    def _spawn(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", _CHILD, str(self.dimension)]
        here = Path(__file__).parent
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=here)

    def check(self, verb: str, under_way: int) -> list[str]:
        """What is wrong with the index; reads all of it."""
        try:
            index = Index.open(self.uri)
            rows = lance.dataset(dataset_uri(index.uri)).to_table().to_pylist()
            return [*self._content(rows, verb, under_way), *self._searches(index, len(rows))]
        except Exception as error:  # whatever it is, it is a corrupted read
            return [f"{type(error).__name__}: {error}"]

    def _content(self, rows: list[dict[str, Any]], verb: str, under_way: int) -> list[str]:
        faults = []
        texts = {row["id"]: row["text"] for row in rows}
        if len(texts) != len(rows):
            faults.append(f"{len(rows) - len(texts)} ids twice")
        for row, expected in zip(
            rows, vectors_of([row["text"] for row in rows], self.dimension), strict=True
        ):
            if not np.array_equal(np.asarray(row["vector"], dtype=np.float32), expected):
                faults.append(f"the vector of {row['id']} is not that of its text")
        even = set(range(0, BLOCK - 1, 2))
        everything = set(range(BLOCK - 1))
        for at, state in list(self.blocks.items()):
            there = {k for k in everything if texts.get(f"d{at + k}") == f"{at + k} round {at}"}
            allowed = [everything - even] if state == "delete" else [everything]
            if verb == "delete" and at == under_way and state == "upsert":
                allowed.append(everything - even)
                if there == everything - even:
                    self.blocks[at] = "delete"
            if there not in allowed:
                faults.append(f"block {at} ({state}) has {len(there)} of its documents")
        if under_way not in self.blocks:
            there = {k for k in everything if f"d{under_way + k}" in texts}
            if there not in (set(), everything):
                faults.append(f"block {under_way}, never acknowledged, is there in part: {len(there)}")
            if there:
                self.blocks[under_way] = "upsert"
        last = max(self.blocks, default=None)
        if last is not None and texts.get("shared") != f"{last} round {last}":
            faults.append(f"the shared document is {texts.get('shared')!r}, not of block {last}")
        return faults

    def _searches(self, index: Index, rows: int) -> list[str]:
        queries = vectors_of(["1 x", "77 x"], self.dimension)
        faults = []
        for exact in (False, True):
            for hits in index.search_vectors(queries, 10, exact=exact):
                if len({hit.id for hit in hits}) != min(10, rows):
                    faults.append(f"a search found {len(hits)} of {rows} (exact: {exact})")
        if index._store.has_text and rows:
            found = {hit.id for hit in index.search("round", 10, mode="text")}
            if len(found) != min(10, rows):
                faults.append(f"a search by words found {len(found)} of {rows}")
        return faults


def main() -> None:
    """Kill, look, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    from core import surroundings

    from routerretriever.model import RouterRetriever  # here, so that children start without torch

    model = RouterRetriever.create("all-MiniLM-L6-v2", device="cpu")
    with tempfile.TemporaryDirectory() as scratch:
        uri = str(Path(scratch) / "index")
        Index.create(uri, model)
        kills = Kills(uri, model.encoder.dimension, random.Random(args.seed))
        with closing(kills):
            found = [kills.once(VERBS[number % len(VERBS)]) for number in range(args.kills)]
        index = Index.open(uri)
        result = {
            "command": f"python benchmarks/scale_kills.py OUT.json --kills {args.kills} --seed {args.seed}",
            **surroundings(),
            "kills": {verb: sum(kill["verb"] == verb for kill in found) for verb in VERBS},
            "acknowledged": sum(kill["acknowledged"] for kill in found),
            "kills with a fault": sum(bool(kill["faults"]) for kill in found),
            "documents at the end": len(index),
            "kind at the end": index.kind.kind,
            "faults": [kill for kill in found if kill["faults"]],
        }
    args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
