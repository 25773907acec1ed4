"""Write the README's result table from the committed figures.

    python benchmarks/tables.py

A test fails while the README and ``benchmarks/core.json`` disagree.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
START, END = "<!-- results: made by benchmarks/tables.py -->", "<!-- /results -->"
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


def with_results(readme: str, content: dict[str, Any]) -> str:
    """The README with its table renewed."""
    before, _, rest = readme.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n{results_table(content)}\n{END}{after}"


if __name__ == "__main__":
    path = ROOT / "README.md"
    figures = json.loads((ROOT / "benchmarks" / "core.json").read_text(encoding="utf-8"))
    path.write_text(with_results(path.read_text(encoding="utf-8"), figures), encoding="utf-8")
