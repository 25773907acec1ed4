"""How fast everything is, against what a user would pick instead; see benchmarks/speed/README.md for the figures.

    python benchmarks/speed.py DATA [--model MODEL] [--only PART …] [--peers PYTHON]

DATA holds the collections in BEIR's layout. MODEL has the experts of some of them; without one the model of core.py is
trained first, or found in the cache. Needs faiss-cpu, and for semantic-router another Python that has it, since the
two cannot share an environment. Each part writes its figures when it is done; all together take about an hour and a
half on two cores, without anything else on the machine.
"""

from __future__ import annotations

import argparse
import importlib
import os
import tempfile
from pathlib import Path

import torch
from speed_setting import Setting, write_part

from routerretriever.cli.common import quiet_libraries
from routerretriever.storage.cache_directory import cache_directory

PARTS = ("queries", "maps", "engine", "documents", "experts", "routing", "search", "library", "training")


def trained_model(data: Path) -> Path:
    """The model whose quality benchmarks/core.json reports."""
    from core import trained

    path = cache_directory() / "benchmarks" / "core-model"
    trained(data, path)
    return path


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="collections in BEIR's layout")
    parser.add_argument("--model", type=Path, help="a model with experts")
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS)
    )
    parser.add_argument(
        "--peers", type=Path, metavar="PYTHON", help="an interpreter that has semantic-router"
    )
    given = parser.parse_args()
    if not torch.cuda.is_available():
        print("No GPU here: everything runs on the processor.", flush=True)
    model = (given.model or trained_model(given.data)).resolve()
    cache = os.environ.get("ROUTERRETRIEVER_CACHE")
    for part in given.only:
        with tempfile.TemporaryDirectory() as scratch:
            setting = Setting(model, given.data.resolve(), Path(scratch), given.peers)
            machines = [setting.machine(threads).to_dict() for threads in (1, 2)]
            result = importlib.import_module(f"speed_{part}").run(setting)
            write_part(part, {"floors": machines, **result})
        if cache is not None:  # parts that embed documents do so in a cache of their own
            os.environ["ROUTERRETRIEVER_CACHE"] = cache
        else:
            os.environ.pop("ROUTERRETRIEVER_CACHE", None)


if __name__ == "__main__":
    quiet_libraries()
    main()
