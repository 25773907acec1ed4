"""Many experts: loading them, adding one, and the memory they take, against PEFT's load_adapter.

Every measurement is a process of its own, so that memory is what this one model takes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
from speed_models import library_for, saved_adapters, with_experts
from speed_queries import Peft
from speed_setting import Setting, said

from routerretriever import RouterRetriever
from routerretriever.routing.policy import RoutingPolicy
from routerretriever.routing.routers import make_router

COUNTS = (8, 64, 512)
PEFT_COUNTS = (8, 64)  # it takes the square of their number: more than ten minutes for 512
ROUNDS = 5


def run(setting: Setting) -> dict[str, Any]:
    """Models of 8, 64 and 512 experts, each loaded several times, with a library and without."""
    with_experts(setting.model, 0).save_pretrained(setting.scratch / "none")
    alone = measured("ours", setting.scratch / "none", setting)
    return {"rows": [said(_row(setting, count, alone)) for count in COUNTS]}


def _row(setting: Setting, count: int, alone: dict[str, float]) -> dict[str, Any]:
    folder, bare, adapters = _saved(setting, count)
    ours = [measured("ours", folder, setting) for _ in range(ROUNDS)]
    without = measured("ours", bare, setting)
    peer = measured("peer", adapters, setting) if count in PEFT_COUNTS else None
    size = sum(file.stat().st_size for file in folder.glob("experts/*/*.safetensors")) / 2**20
    load, add, resident = (
        sorted(row[key] for row in ours)[ROUNDS // 2] for key in ("load", "add", "resident")
    )
    memory = without["resident"] - alone["resident"]
    return {
        "experts": count,
        "load s": round(load, 2),
        "PEFT load s": "–" if peer is None else round(peer["load"], 2),
        "add one ms": round(1e3 * add, 1),
        "PEFT add one ms": "–" if peer is None else round(1e3 * peer["add"], 1),
        "files MiB": round(size, 1),
        "memory of the experts MiB": round(memory, 1),
        "over files": round(memory / size, 2),
        "memory of the library MiB": round(resident - without["resident"], 1),
    }


def _saved(setting: Setting, count: int) -> tuple[Path, Path, Path]:
    """A model with so many experts and a library, one without the library, and the same experts as PEFT folders."""
    folder, bare, adapters = (setting.scratch / f"{kind}-{count}" for kind in ("model", "bare", "adapters"))
    model = with_experts(setting.model, count)
    saved_adapters(model, adapters)
    model.save_pretrained(bare)
    embeddings = model.route_embeddings(setting.queries)
    router = make_router("gain", library_for(embeddings, list(model.state.experts)))
    model.state = model.state.with_policy(RoutingPolicy(router))
    model.save_pretrained(folder)
    return folder, bare, adapters


def measured(what: str, folder: Path, setting: Setting) -> dict[str, float]:
    """Return what :func:`_one` measures in a process of its own."""
    command = [sys.executable, __file__, what, str(folder), str(setting.model), str(setting.data)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def _resident() -> float:
    return float(psutil.Process().memory_info().rss / 2**20)


def _one(what: str, folder: Path, setting: Setting) -> dict[str, float]:
    """Seconds to load and to add one expert more, and MiB of memory between the two."""
    setting.base()  # imports and first calls are nobody's
    spare = with_experts(setting.model, 1)
    adapter = spare.state.experts["e0"]
    extra = saved_adapters(spare, setting.scratch / "spare")[0]
    started = time.perf_counter()
    if what == "peer":
        peft = Peft(setting.base(), sorted(folder.iterdir()))
        loaded, resident = time.perf_counter(), _resident()
        peft.model.load_adapter(str(extra), adapter_name="one-more")
    else:
        model = RouterRetriever.from_pretrained(folder, device=setting.device)
        loaded, resident = time.perf_counter(), _resident()
        model.add_expert("one-more", adapter)
    return {"load": loaded - started, "add": time.perf_counter() - loaded, "resident": resident}


if __name__ == "__main__":
    import tempfile

    from routerretriever.cli.common import quiet_libraries

    quiet_libraries()
    with tempfile.TemporaryDirectory() as scratch:
        what, folder, model, data = sys.argv[1:5]
        print(json.dumps(_one(what, Path(folder), Setting(Path(model), Path(data), Path(scratch)))))
