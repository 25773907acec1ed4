"""What every part of the speed benchmark is given, and where its figures go."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from core import mixed_queries, surroundings
from sentence_transformers import SentenceTransformer
from speed_timing import Machine

from routerretriever import Collection
from routerretriever.encoder.base_models import load_base

BASE = "all-MiniLM-L6-v2"
DIRECTORY = Path(__file__).parent / "speed"


@dataclass(frozen=True)
class Setting:
    """One run of the benchmark.

    Attributes:
        model: folder of a model with trained experts.
        data: collections in BEIR's layout.
        scratch: folder for what may be thrown away.
        peers: a Python that has semantic-router; ``None`` leaves it out.
    """

    model: Path
    data: Path
    scratch: Path
    peers: Path | None = None

    @property
    def device(self) -> str:
        """Where everything runs."""
        return "cuda" if torch.cuda.is_available() else "cpu"

    @cached_property
    def queries(self) -> list[str]:
        """Real queries of several collections, mixed."""
        return mixed_queries(self.data)

    def base(self) -> SentenceTransformer:
        """A plain base of its own."""
        return load_base(BASE, self.device).eval()

    def collection(self, name: str) -> Collection:
        """One of the collections."""
        return Collection.load(self.data / name, cut_off=True)

    def machine(self, threads: int) -> Machine:
        """What this machine does at best."""
        return Machine.measured(threads, self.device)


def write_part(name: str, content: dict[str, Any]) -> None:
    """One part's figures, beside those of the others."""
    DIRECTORY.mkdir(exist_ok=True)
    result = {"command": f"python benchmarks/speed.py DATA --only {name}", **surroundings(), **content}
    (DIRECTORY / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def read_part(name: str) -> dict[str, Any]:
    """What :func:`write_part` wrote."""
    content: dict[str, Any] = json.loads((DIRECTORY / f"{name}.json").read_text(encoding="utf-8"))
    return content


def said(row: dict[str, Any]) -> dict[str, Any]:
    """The same row, after it was printed."""
    print(json.dumps(row), flush=True)
    return row
