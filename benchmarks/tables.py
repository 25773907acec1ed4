"""Write the documentation's tables from the committed figures.

    python benchmarks/tables.py

A test fails while the pages and the JSON files beside this script disagree.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scale_tables import TABLES as SCALE_TABLES
from scale_tables import table

ROOT = Path(__file__).resolve().parent.parent
_SYSTEMS = {"base": "base", "routed": "routed", "dataset_oracle": "DatasetOracle"}


def results_table(content: dict[str, Any]) -> str:
    """nDCG@10 × 100 of base, routed and the oracle on every collection."""
    lines = ["| collection | base | routed | own expert | DatasetOracle |", "|---|--:|--:|--:|--:|"]
    for group, title in (("seen", "with an expert"), ("unseen", "without one")):
        lines.append(f"| *{title}* | | | | |")
        for name, row in content[group].items():
            systems = row["systems"]
            own = systems.get(f"expert:{name}")
            cells = [_points(systems["base"]), _marked(systems), _points(own) if own else "–"]
            lines.append(f"| {name} | " + " | ".join([*cells, _points(systems["dataset_oracle"])]) + " |")
        means = {key: content["summary"][group][key] for key in _SYSTEMS}
        base, routed, oracle = (f"{100 * means[key]:.1f}" for key in _SYSTEMS)
        lines.append(f"| **mean** | **{base}** | **{routed}** | | **{oracle}** |")
    return "\n".join(lines)


def _points(scores: dict[str, Any]) -> str:
    return f"{100 * scores['nDCG@10']:.1f}"


def _marked(systems: dict[str, Any]) -> str:
    return _points(systems["routed"]) + ("\\*" if systems["routed"]["p_vs_base"] < 0.05 else "")


def systems_table(report: dict[str, Any]) -> str:
    """Every system of an experiment suite: means, what it recovers, whom it hurts."""
    groups = [group for group, members in report["groups"].items() if members]
    heads = [f"{group} | helped | hurt | worst" for group in groups]
    lines = ["| system | " + " | ".join(heads) + " |", "|---|" + "--:|--:|--:|---|" * len(groups)]
    for name, row in report["systems"].items():
        if name.startswith("expert:"):
            continue
        cells = [_group_cells(row[group]) for group in groups]
        title = f"*{name}*" if row["oracle"] else f"**{name}**" if name == "routed" else name
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def words_table(content: dict[str, Any]) -> str:
    """nDCG@10 × 100 of searches by vectors, words and both, each collection and the means."""
    systems = ("base", "bm25", "hybrid", "routed", "routed-hybrid")
    rows = []
    for name, row in content["collections"].items():
        rows.append((name, *(f"{100 * row['nDCG@10'][system]:.1f}" for system in systems)))
    for group, summary in content["summary"].items():
        rows.append((f"**mean {group}**", *(f"{100 * summary['nDCG@10'][s]:.1f}" for s in systems)))
    return table(("collection", *systems), rows)


def headline_table(content: dict[str, Any]) -> str:
    """nDCG@10 × 100 of what one has without experts, and of the default search."""
    systems = {
        "base": "base",
        "hybrid": "base + words",
        "routed": "routed",
        "routed-hybrid": "**routed + words (default)**",
    }
    rows: list[tuple[str, ...]] = []
    for group, summary in content["summary"].items():
        rows.append((f"*{group}*", *("" for _ in systems)))
        for name in summary["collections"]:
            scores = content["collections"][name]["nDCG@10"]
            rows.append((name, *(f"{100 * scores[system]:.1f}" for system in systems)))
        means = summary["nDCG@10"]
        rows.append(("**mean**", *(f"**{100 * means[system]:.1f}**" for system in systems)))
    return table(("collection", *systems.values()), rows)


def _group_cells(figures: dict[str, Any]) -> str:
    worst, difference = figures["worst"]
    rates = f"{100 * figures['helped']:.0f}% | {100 * figures['hurt']:.0f}%"
    return f"{100 * figures['mean']:.1f} | {rates} | {worst} {100 * difference:+.1f}"


def serving_table(content: dict[str, Any]) -> str:
    """The server under load: the closed loop, and what the rest comes to."""
    lines = ["| clients | requests a second | p50, ms | p95, ms | p99, ms |", "|--:|--:|--:|--:|--:|"]
    for row in content["closed_loop"]:
        cells = [f"{row[key]:.0f}" for key in ("per_second", "p50", "p95", "p99")]
        lines.append(f"| {row['clients']} | " + " | ".join(cells) + " |")
    lines += ["", *(f"* {title}: {value}" for title, value in content["summary"].items())]
    return "\n".join(lines)


def speed_table(content: dict[str, Any]) -> str:
    """One part of the speed benchmark: what was measured, ours, the floor, and ours against every peer."""
    if not content["rows"]:
        return str(content["left out"])
    parts = [_rows_table(content["rows"])]
    if content.get("left out"):
        parts.append(f"Left out: {content['left out']}.")
    for further in ("quality", "models", "documents", "starting"):
        if isinstance(content.get(further), list):
            parts.append(_rows_table(content[further]))
    return "\n\n".join(parts)


def _rows_table(rows: list[dict[str, Any]]) -> str:
    flat = [_flat(row) for row in rows]
    heads = list(dict.fromkeys(key for row in flat for key in row))
    lines = ["| " + " | ".join(heads) + " |", "|" + "--:|" * len(heads)]
    lines += ["| " + " | ".join(_cell(row.get(head, "–")) for head in heads) + " |" for row in flat]
    return "\n".join(lines)


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """What was measured, our time, the floor, and how many times as fast as each peer; quartiles stay in the file."""
    flat = {key: value for key, value in row.items() if _plain(value) and key not in _IN_FILE}
    if "ms" in row:
        flat["ours, ms"] = next(iter(row["ms"].values()))
    if "floor ms" in row:
        flat["floor, ms"] = row["floor ms"]
    return flat | {f"× {peer}": ratio for peer, ratio in row.get("speed against", {}).items()}


_IN_FILE = (
    "floor ms",
    *(f"largest difference{what}" for what in ("", " to PEFT", " of a query vector", " of a mean gain")),
)


def _plain(value: Any) -> bool:
    return isinstance(value, (str, int, float))


def _cell(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def synthesis_table(content: dict[str, Any]) -> str:
    """Points over base of experts that learnt from generated queries, and of routing to them, beside true queries."""
    ways, summary = list(content["summary"]), content["summary"]
    true = json.loads((ROOT / "benchmarks" / "real.json").read_text(encoding="utf-8"))["systems"]
    rows, gains = [], []
    for name, cells in content["cells"].items():
        base = next(iter(cells.values()))["base"]
        gains.append(true[f"expert:{name}"]["collections"][name]["nDCG@10"] - base)
        rows.append((name, f"{100 * base:.1f}", *_ways(cells, ways), f"{100 * gains[-1]:+.1f}"))
    means = {way: row | {"routed_gain": row["routed"] - row["base"]} for way, row in summary.items()}
    base, true_gain = next(iter(summary.values()))["base"], sum(gains) / len(gains)
    rows.append(("**mean**", f"{100 * base:.1f}", *_ways(means, ways), f"{100 * true_gain:+.1f}"))
    return table(("collection", "base", *ways, "true queries"), rows)


def _ways(cells: dict[str, Any], ways: list[str]) -> list[str]:
    pairs = (
        (100 * cells[way]["gain"], 100 * cells[way]["routed_gain"]) if way in cells else None for way in ways
    )
    return ["–" if pair is None else "{:+.1f} ({:+.1f})".format(*pair) for pair in pairs]


def feedback_table(content: dict[str, Any]) -> str:
    """What routing gains from logs of several sizes, on their own domain and on the worst of the others."""
    heads = (
        "domain",
        "its expert",
        "queries logged",
        "clicks",
        "base",
        "before",
        "after",
        "pinned",
        "worst elsewhere",
    )
    rows = []
    for case in content["cases"]:
        name, before = case["domain"], case["before"]
        pinned = f"{100 * case['pinned'][name]:.1f}" if "pinned" in case else "–"
        for row in case["after"]:
            other, change = min(
                ((key, row["ndcg"][key] - before[key]) for key in before if key != name),
                key=lambda pair: pair[1],
            )
            scores = [f"{100 * scores[name]:.1f}" for scores in (case["base"], before, row["ndcg"])]
            expert = "there, not measured" if case["expert"] else "none"
            rows.append(
                (name, expert, row["queries"], row["clicks"], *scores, pinned, f"{other} {100 * change:+.1f}")
            )
    return table(heads, rows)


def kinds_table(content: dict[str, Any]) -> str:
    """Points over base of each kind of expert, on test queries and on short texts of documents; means over seeds."""
    asked = {"test_gain": ("lora", "map", "both", "auto"), "other_styles_gain": ("lora", "map", "auto")}
    by_expert: dict[str, list[dict[str, Any]]] = {}
    for row in content["rows"]:
        by_expert.setdefault(row["expert"], []).append(row)
    rows = []
    for expert, found in [*by_expert.items(), ("**mean**", content["rows"])]:
        cells = []
        for figure, kinds in asked.items():
            for kind in kinds:
                cells.append(f"{100 * sum(row[figure][kind] for row in found) / len(found):+.1f}")
        rows.append((expert, *cells))
    heads = (
        kind + ", short texts" * (figure != "test_gain") for figure, kinds in asked.items() for kind in kinds
    )
    return table(("expert of", *heads), rows)


SPEED_PAGE = "benchmarks/speed/README.md"
SPEED_PARTS = (
    "queries",
    "maps",
    "engine",
    "documents",
    "experts",
    "routing",
    "search",
    "library",
    "training",
)


def _is_measured(part: str) -> bool:
    """Return whether the committed figures have a part; one that is new has none before it has run."""
    return (ROOT / "benchmarks" / "speed" / f"{part}.json").exists()


TABLES = (
    ("README.md", "headline", "hybrid.json", headline_table),
    ("docs/search.md", "words", "hybrid.json", words_table),
    ("docs/comparison.md", "systems", "real.json", systems_table),
    ("docs/comparison.md", "anchored", "anchored.json", systems_table),
    ("docs/concepts.md", "lora-and-maps", "kinds.json", kinds_table),
    ("docs/unlabelled.md", "synthesis", "synthesis.json", synthesis_table),
    ("docs/feedback.md", "feedback", "feedback.json", feedback_table),
    ("docs/server.md", "serving", "serving/load.json", serving_table),
    *((SPEED_PAGE, part, f"speed/{part}.json", speed_table) for part in SPEED_PARTS if _is_measured(part)),
    *SCALE_TABLES,
)


def with_table(readme: str, name: str, table: str) -> str:
    """A page with one of its tables renewed."""
    start, end = f"<!-- {name}: made by benchmarks/tables.py -->", f"<!-- /{name} -->"
    before, _, rest = readme.partition(start)
    _, _, after = rest.partition(end)
    return f"{before}{start}\n{table}\n{end}{after}"


def renewed(page: str, text: str) -> str:
    """A page's text with the tables that the committed figures give."""
    for where, name, file, make in TABLES:
        if where == page:
            content = json.loads((ROOT / "benchmarks" / file).read_text(encoding="utf-8"))
            text = with_table(text, name, make(content))
    return text


if __name__ == "__main__":
    for page in dict.fromkeys(where for where, *_ in TABLES):
        path = ROOT / page
        path.write_text(renewed(page, path.read_text(encoding="utf-8")), encoding="utf-8")
