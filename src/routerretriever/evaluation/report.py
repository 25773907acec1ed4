"""Show an evaluation: a table for the terminal, and a folder with HTML, Markdown, JSON and TREC runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from rich.table import Table

from routerretriever.evaluation.evaluate import Evaluation
from routerretriever.evaluation.query_differences import most_changed
from routerretriever.evaluation.query_groups import QueryGroups, by_length
from routerretriever.evaluation.statistics import SIGNIFICANCE_LEVEL
from routerretriever.evaluation.trec_runs import run_file_name, write_trec_run
from routerretriever.version import __version__


def _points(value: float) -> str:
    return f"{100 * value:.1f}"


def evaluation_table(evaluation: Evaluation) -> Table:
    """nDCG@10 × 100 of every system on every collection; ``*`` marks p < 0.05 against base."""
    summaries = evaluation.to_dict()["collections"]
    table = Table("system", *summaries, "mean", title="nDCG@10 × 100")
    for column in table.columns[1:]:
        column.justify = "right"
    for system in evaluation.systems:
        style = None
        if system == "routed-hybrid":
            style = "bold green"
        elif system.endswith("oracle"):
            style = "dim"
        cells = _marked_cells(summaries, system)
        table.add_row(system, *cells, _points(evaluation.mean(system)), style=style)
    return table


def _marked_cells(summaries: dict[str, Any], system: str) -> list[str]:
    """Return a system's nDCG@10 × 100 on every collection, with ``*`` where it differs from base."""
    cells = []
    for summary in summaries.values():
        scores = summary["systems"][system]
        cells.append(_points(scores["nDCG@10"]) + _star(scores))
    return cells


def _star(summary: dict[str, Any]) -> str:
    return "*" if summary["p_vs_base"] < SIGNIFICANCE_LEVEL else ""


def report_content(evaluation: Evaluation, groups: QueryGroups | None = None) -> dict[str, Any]:
    """Return the document of ``report.json``, which ``evaluate --json`` prints.

    Args:
        evaluation: what was measured.
        groups: of the queries; default by their length.
    """
    helped, hurt = most_changed(evaluation)
    return evaluation.to_dict() | {
        "groups": (groups or by_length(evaluation)).to_dict(),
        "most_helped": [found.to_dict() for found in helped],
        "most_hurt": [found.to_dict() for found in hurt],
    }


def write_report(
    evaluation: Evaluation, directory: Path, *, title: str, groups: QueryGroups | None = None
) -> Path:
    """Write ``report.html``, ``report.md``, ``report.json`` and ``runs/``.

    Plots are included where the ``plots`` extra is installed.

    Returns:
        The path of the HTML page.
    """
    directory.mkdir(parents=True, exist_ok=True)
    content = report_content(evaluation, groups)
    (directory / "report.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (directory / "report.md").write_text(_markdown(evaluation, title), encoding="utf-8")
    write_runs(evaluation, directory / "runs")
    page = directory / "report.html"
    page.write_text(_html(evaluation, content, title), encoding="utf-8")
    return page


def _markdown(evaluation: Evaluation, title: str) -> str:
    summaries = evaluation.to_dict()["collections"]
    lines = [f"# {title}", "", "nDCG@10 × 100; * p < 0.05 against base.", ""]
    lines.append("| system | " + " | ".join(summaries) + " | mean |")
    lines.append("|---|" + "--:|" * (len(summaries) + 1))
    for system in evaluation.systems:
        cells = [system, *_marked_cells(summaries, system), _points(evaluation.mean(system))]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", *_documents(evaluation)]
    return "\n".join(lines) + "\n"


def _documents(evaluation: Evaluation) -> list[str]:
    """Return a sentence for each collection: how its documents were read."""
    return [f"{result.name}: {result.documents}." for result in evaluation.collections]


def _html(evaluation: Evaluation, content: dict[str, Any], title: str) -> str:
    environment = Environment(loader=PackageLoader("routerretriever.evaluation"), autoescape=True)
    summaries = content["collections"]
    queries = 0
    choices = []
    for name, summary in summaries.items():
        queries += summary["queries"]
        choices.append(_choice(name, summary))
    return environment.get_template("report.html.j2").render(
        title=title,
        version=__version__,
        collections=list(summaries),
        queries=queries,
        documents=_documents(evaluation),
        cards=_cards(evaluation),
        rows=[_row(evaluation, summaries, system) for system in evaluation.systems],
        choices=choices,
        groups=content["groups"],
        changed={"helped most": content["most_helped"], "hurt most": content["most_hurt"]},
        plots=_plots(evaluation, summaries),
    )


def _cards(evaluation: Evaluation) -> list[dict[str, str]]:
    base = evaluation.mean("base")
    hybrid, ours = evaluation.mean("hybrid"), evaluation.mean("routed-hybrid")
    routed = evaluation.mean("routed")
    oracle = evaluation.mean("dataset_oracle")
    kind = "up" if ours >= base else "down"
    cards = [
        {"label": "base", "value": _points(base)},
        {"label": "base and words", "value": _points(hybrid)},
        {"label": "routed and words", "value": _points(ours)},
        {"label": "points over base", "value": f"{100 * (ours - base):+.1f}", "kind": kind},
        {"label": "routed vectors alone", "value": _points(routed)},
        {"label": "DatasetOracle of the vectors", "value": _points(oracle)},
    ]

    # The share of a gain close to 0 says nothing.
    if oracle - base > 0.005:
        cards.append(
            {
                "label": "of its gain, by routed vectors",
                "value": f"{100 * (routed - base) / (oracle - base):.0f}%",
            }
        )
    return cards


def _row(evaluation: Evaluation, summaries: dict[str, Any], system: str) -> dict[str, Any]:
    cells = []
    for summary in summaries.values():
        scores, base = summary["systems"][system], summary["systems"]["base"]["nDCG@10"]
        cells.append(
            {
                "value": _points(scores["nDCG@10"]),
                "kind": difference_style(scores["nDCG@10"] - base),
                "mark": _star(scores),
                "low": _points(scores["ci95"][0]),
                "high": _points(scores["ci95"][1]),
                "p": f"{scores['p_vs_base']:.4f}",
            }
        )
    return {"system": system, "cells": cells, "mean": _points(evaluation.mean(system))}


def difference_style(difference: float) -> str:
    """Return the style of a difference in nDCG; one that rounds to 0.0 points has none."""
    if difference > 0.0005:
        return "up"
    if difference < -0.0005:
        return "down"
    return ""


def _choice(name: str, summary: dict[str, Any]) -> dict[str, Any]:
    routed = summary["systems"]["routed-hybrid"]
    chosen = []
    for candidate, count in summary["chosen"].items():
        chosen.append(f"{candidate} {count}")
    return {
        "name": name,
        "queries": summary["queries"],
        "helped": f"{100 * routed['helped']:.0f}%",
        "hurt": f"{100 * routed['hurt']:.0f}%",
        "chosen": ", ".join(chosen) or "base (no pilot library)",
    }


def _plots(evaluation: Evaluation, summaries: dict[str, Any]) -> list[str]:
    try:
        import plotly.graph_objects as go
    except ImportError:
        return []
    pages = []
    for number, figure in enumerate((_bars(go, summaries), _heat(go, evaluation, summaries))):
        figure.update_layout(template="plotly_white", height=420, margin={"l": 60, "r": 20, "t": 50, "b": 40})
        pages.append(figure.to_html(full_html=False, include_plotlyjs=number == 0))
    return pages


def _bars(go: Any, summaries: dict[str, Any]) -> Any:
    """Return bars of the systems on every collection, with their intervals."""
    names = list(summaries)
    colours = {
        "base": "#9aa7b5",
        "hybrid": "#d9a441",
        "routed": "#7fbf9f",
        "routed-hybrid": "#0a7d4f",
        "dataset_oracle": "#3b5b92",
    }
    bars = go.Figure()
    for system, colour in colours.items():
        values, above, below = [], [], []
        for summary in summaries.values():
            scores = summary["systems"][system]
            low, high = scores["ci95"]
            value = 100 * scores["nDCG@10"]
            values.append(value)
            above.append(100 * high - value)
            below.append(value - 100 * low)
        bars.add_bar(
            name=system,
            x=names,
            y=values,
            marker_color=colour,
            error_y={
                "array": above,
                "arrayminus": below,
                "thickness": 1,
                "color": "#5d6b7e",
            },
        )
    bars.update_layout(barmode="group", yaxis_title="nDCG@10 × 100", title="With 95% intervals")
    return bars


def _heat(go: Any, evaluation: Evaluation, summaries: dict[str, Any]) -> Any:
    """Return the percentage of each collection's queries for which each candidate was chosen."""
    candidates = ["base", "merged"]
    for system in evaluation.systems:
        if system.startswith("expert:"):
            candidates.append(system.removeprefix("expert:"))
    shares = []
    for summary in summaries.values():
        chosen, queries = summary["chosen"], summary["queries"]
        shares.append([100 * chosen.get(candidate, 0) / queries for candidate in candidates])
    heat = go.Figure(
        go.Heatmap(
            x=candidates,
            y=list(summaries),
            z=shares,
            zmin=0,
            zmax=100,
            colorscale="Greens",
            texttemplate="%{z:.0f}%",
            colorbar={"title": "% of queries"},
        )
    )
    heat.update_layout(title="Candidate chosen, by collection", yaxis={"autorange": "reversed"})
    return heat


def write_runs(evaluation: Evaluation, directory: Path) -> None:
    """One TREC run file for every collection and system that ranks documents."""
    directory.mkdir(parents=True, exist_ok=True)
    for result in evaluation.collections:
        for system, scores in result.systems.items():
            if not scores.run:
                continue
            tag = system.replace(":", "-")
            write_trec_run(scores.run, directory / run_file_name(result.name, tag), tag)
