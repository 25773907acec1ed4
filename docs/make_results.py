"""The pages of results, made of the JSON files under ``benchmarks/``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from routerretriever.bench.tables import markdown

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = ROOT / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import tables  # noqa: E402  # a script, not a package

Content = dict[str, Any]
_HEADER = ("command", "machine", "versions")
_TITLES = {
    "core": "Seven experts against the base",
    "real": "Every way to route",
    "real-studies": "Studies that train",
    "honest_gains": "Which queries choose an expert, and which measure it",
    "hybrid": "Words, neighbours and relevance",
    "kinds": "LoRA, maps, and both",
    "serving/load": "The server under load",
    "serving/soak": "The server for half an hour",
}


def pages() -> dict[str, str]:
    """Path below ``results/`` → Markdown; a new JSON file gets a page without being told of."""
    made = {}
    for path in sorted(BENCHMARKS.rglob("*.json")):
        name = path.relative_to(BENCHMARKS).with_suffix("").as_posix()
        if not name.startswith(("speed/", "scale/")):  # these have a page written by hand
            made[name.replace("/", "-") + ".md"] = page(name, json.loads(path.read_text(encoding="utf-8")))
    return {"index.md": index(made)} | made


def index(made: dict[str, str]) -> str:
    """All pages, each by its title."""
    lines = [
        "# Results",
        "",
        "Made from the files under `benchmarks/`, each of which names the command and the machine that made it. What "
        "the figures mean is said in [the overview](../overview.md); how to make yours in [a guide](../evaluation.md).",
        "",
    ]
    for name, text in made.items():
        lines.append(f"* [{text.splitlines()[0].removeprefix('# ')}]({name})")
    by_hand = ["* [Speed against what one would use instead](speed.md)", "* [Many documents](scale.md)"]
    return "\n".join([*lines, *by_hand]) + "\n"


def page(name: str, content: Content) -> str:
    """One file of results: where it comes from, its tables."""
    title = _TITLES.get(name, name)
    lines = [f"# {title}", "", *_header(name, content), ""]
    if "systems" in content and "groups" in content:
        lines += [*_suite(content)]
    elif name == "core":
        lines += [
            tables.results_table(content),
            "",
            _CORE,
            "",
            *_anything({"training": content["training"]}, 2),
        ]
        lines += ["", *_anything({"throughput": content["throughput"]}, 2)]
    else:
        lines += _anything({key: value for key, value in content.items() if key not in _HEADER}, 2)
    return "\n".join(lines) + "\n"


_CORE = (
    "nDCG@10 × 100, all-MiniLM-L6-v2. \\* differs from base (p < 0.05, paired randomisation test). DatasetOracle picks "
    "base or the one best expert with the test judgements: a bound, not a system. Intervals are in the file."
)


def _header(name: str, content: Content) -> list[str]:
    machine = ", ".join(f"{key} {value}" for key, value in content.get("machine", {}).items() if value)
    versions = ", ".join(f"{key} {value}" for key, value in content.get("versions", {}).items())
    file = f"[`benchmarks/{name}.json`](../files/benchmarks/{name}.json)"
    lines = [f"From {file}, made by `{content.get('command', 'an unknown command')}`."]
    return [*lines, f"Machine: {machine}. Versions: {versions}."] if machine else lines


def _suite(content: Content) -> list[str]:
    """The tables that ``routerretriever bench`` writes, with the overview before them."""
    return [tables.systems_table(content), "", *markdown(content).splitlines()[1:]]


# -- anything else ---------------------------------------------------------------------------------


def _anything(value: Content, level: int) -> list[str]:
    """Figures that stand alone in one table; lists of rows, and rows with a name, each in a table of their own."""
    single = {key: item for key, item in value.items() if not _is_table(item)}
    lines = _table([{"": key, " ": item} for key, item in single.items()]) if single else []
    for key, item in value.items():
        if key in single or not item:
            continue
        rows = _as_rows(item)
        lines += ["", "#" * min(level, 6) + f" {key}", ""]
        lines += _table(rows) if rows is not None else _anything(item, level + 1)
    return lines


def _is_table(item: Any) -> bool:
    return isinstance(item, dict) or (
        isinstance(item, list) and any(isinstance(part, (dict, list)) for part in item)
    )


def _as_rows(item: Any) -> list[Content] | None:
    """Rows of a table, if this is one; None if it has parts with parts of their own."""
    if isinstance(item, list):
        if all(isinstance(row, dict) for row in item):
            return [_flat(row) for row in item]
        return [{str(number): cell for number, cell in enumerate(row)} for row in item]
    if not any(_is_table(part) for part in item.values()):
        return [{"": key, " ": part} for key, part in item.items()]
    if all(isinstance(part, dict) for part in item.values()):
        return [{"": key} | _flat(part) for key, part in item.items()]
    return None


def _flat(row: Content, prefix: str = "") -> Content:
    flat: Content = {}
    for key, value in row.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}, ") if isinstance(value, dict) else {name: value}
    return flat


def _table(rows: list[Content]) -> list[str]:
    heads = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "--:|" * (len(heads) - 1)]
    return lines + ["| " + " | ".join(_cell(row.get(head, "–")) for head in heads) + " |" for row in rows]


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_cell(part) for part in value)
    if isinstance(value, bool) or not isinstance(value, float):
        return str(value).replace("|", "\\|")
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
