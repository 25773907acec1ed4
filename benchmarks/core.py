"""The figures of the core: experts, routing, unseen collections, training time, query throughput.

    python benchmarks/core.py DATA OUT.json

DATA holds the collections in BEIR's layout. Every figure is printed and written to OUT.json. Models and
checkpoints live in the cache folder, so that an interrupted run goes on where it was.
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer

from routerretriever import Collection, RouterRetriever, TrainingConfig, __version__, evaluate, train_expert
from routerretriever.bench.suite import Suite
from routerretriever.cli.common import quiet_libraries
from routerretriever.encoder.base_models import load_base
from routerretriever.progress import Bars
from routerretriever.storage.cache_directory import cache_directory

REAL = Suite.load(Path(__file__).parents[1] / "suites" / "real.yaml")
"""Names the real collections with an expert, and those without one."""

SEEN = ("nl2bash", "scifact", "nfcorpus", "finqa10k", "mitre_attack", "obliqa", "bankfaq")
UNSEEN = ("cranfield", "cacm", "npl", "fiqa_mini", "pubmedqa", "climate_fever")
WHOLE = ("nfcorpus", "scifact", "bankfaq")
LIMIT, SEED = 500, 0
TARGETS = {"scifact": 0.75, "mitre_attack": 0.71, "nl2bash": 0.61}


def trained(data: Path, path: Path) -> tuple[RouterRetriever, dict[str, Any]]:
    """The model with all experts and its library; trains what is missing."""
    timing_file = path.with_suffix(".training.json")
    timing: dict[str, Any] = json.loads(timing_file.read_text()) if timing_file.exists() else {}
    model = RouterRetriever.from_pretrained(path) if path.exists() else RouterRetriever.create()
    for name in SEEN:
        if name in model.experts:
            continue
        collection = Collection.load(data / name, cut_off=True)
        model.embed_collection(collection, progress=Bars())
        # The published figures are older than anchors.
        config = TrainingConfig(anchor=0.0)
        report = train_expert(model, collection, config=config, progress=Bars())
        model.save_pretrained(path)
        timing[name] = {
            "seconds": round(report.seconds, 1),
            "queries": report.info.queries,
            "steps": report.steps,
            "held_out_base": report.info.base_ndcg,
            "held_out_expert": report.info.expert_ndcg,
        }
        timing_file.write_text(json.dumps(timing, indent=2))
        print(name, timing[name], flush=True)
    model.build_library([Collection.load(data / name, cut_off=True) for name in SEEN], progress=Bars())
    model.save_pretrained(path)
    return model, timing


def quality(model: RouterRetriever, data: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """Every system on the test split of some collections."""
    result: dict[str, Any] = {}
    for name in names:
        limit = None if name in WHOLE else LIMIT
        one = evaluate(
            model, [Collection.load(data / name, cut_off=True)], limit=limit, seed=SEED, progress=Bars()
        ).to_dict()
        result[name] = one["collections"][name]
        systems = result[name]["systems"]
        figures = {key: round(100 * systems[key]["nDCG@10"], 1) for key in systems}
        print(name, figures, result[name]["chosen"], flush=True)
    return result


def mean(results: dict[str, Any], system: str) -> float:
    """Macro mean of nDCG@10."""
    return float(statistics.mean(result["systems"][system]["nDCG@10"] for result in results.values()))


def mixed_queries(data: Path, count: int = 768) -> list[str]:
    """Test queries of all collections with an expert, mixed."""
    queries: list[str] = []
    for name in SEEN:
        queries += list(
            Collection.load(data / name, cut_off=True).split("test").sample(110, 1).queries.values()
        )
    return [queries[(number * 97) % len(queries)] for number in range(count)]


def surroundings() -> dict[str, Any]:
    """The machine and the versions, as they stand in a result."""
    return {
        "machine": {
            "processor": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
            "cores": torch.get_num_threads(),
            "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "versions": {
            "routerretriever": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }


def throughput(model: RouterRetriever, data: Path, rounds: int = 9, batch: int = 64) -> dict[str, Any]:
    """Routed queries against the plain base's ``encode_query``, interleaved, on mixed test queries."""
    base: SentenceTransformer = load_base("all-MiniLM-L6-v2", "cpu")
    queries = mixed_queries(data)
    systems = {"base": base, "routed": model}
    times: dict[str, list[float]] = {name: [] for name in systems}
    for number in range(rounds + 1):
        for name, system in systems.items():
            start = time.perf_counter()
            system.encode_query(queries, batch_size=batch)
            if number:  # the first round warms up
                times[name].append(time.perf_counter() - start)
    ratios = [plain / routed for plain, routed in zip(times["base"], times["routed"], strict=True)]
    rates = {name: round(len(queries) / statistics.median(values), 1) for name, values in times.items()}
    return {
        "batch": batch,
        "queries_per_second": rates,
        "ratio": round(statistics.median(ratios), 3),
        "ratios": ratios,
    }


def main(data: Path, out: Path) -> None:
    """Run everything and write the JSON."""
    model, timing = trained(data, cache_directory() / "benchmarks" / "core-model")
    seen, unseen = quality(model, data, SEEN), quality(model, data, UNSEEN)
    speed = throughput(model, data)
    routed, oracle = mean(seen, "routed"), mean(seen, "dataset_oracle")
    worst = min(r["systems"]["routed"]["nDCG@10"] - r["systems"]["base"]["nDCG@10"] for r in unseen.values())
    own = {name: seen[name]["systems"][f"expert:{name}"]["nDCG@10"] for name in SEEN}
    summary = {
        "each expert beats base": all(own[n] > seen[n]["systems"]["base"]["nDCG@10"] for n in SEEN),
        "own expert": own,
        "targets for own expert": TARGETS,
        "seen": {s: mean(seen, s) for s in ("base", "routed", "merged", "dataset_oracle", "instance_oracle")},
        "routed share of DatasetOracle (target 0.985)": routed / oracle,
        "unseen": {s: mean(unseen, s) for s in ("base", "routed", "merged", "dataset_oracle")},
        "unseen: worst difference to base (target -0.01)": worst,
        "seconds to train on 4000+ queries (target 300)": {
            n: t["seconds"] for n, t in timing.items() if t["queries"] > 4000
        },
        "routed query throughput over base, batch 64 (target 0.9)": speed["ratio"],
    }
    print(json.dumps(summary, indent=2))
    content = {
        "command": "python benchmarks/core.py DATA benchmarks/core.json",
        **surroundings(),
        "test_queries": {"limit": LIMIT, "seed": SEED, "whole": WHOLE},
        "summary": summary,
        "training": timing,
        "throughput": speed,
        "seen": seen,
        "unseen": unseen,
    }
    out.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    quiet_libraries()
    main(Path(sys.argv[1]), Path(sys.argv[2]))
