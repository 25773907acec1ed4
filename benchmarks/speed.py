"""Routed queries against the plain base, PEFT and the paper's two passes.

    python benchmarks/speed.py MODEL DATA OUT.json

MODEL has the experts of some collections in DATA. Takes some twenty minutes; leave the machine alone meanwhile.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from core import surroundings
from speed_queries import run

from routerretriever.cli import quiet_libraries

if __name__ == "__main__":
    quiet_libraries()
    model, data, out = (Path(argument) for argument in sys.argv[1:4])
    with tempfile.TemporaryDirectory() as scratch:
        result = run(model, data, Path(scratch))
    out.write_text(json.dumps({**surroundings(), **result}, indent=2) + "\n", encoding="utf-8")
