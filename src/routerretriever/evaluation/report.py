"""Show an evaluation: a table for the terminal, and a folder with HTML, Markdown, JSON and TREC runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from rich.table import Table

from routerretriever.evaluation.evaluate import Evaluation
from routerretriever.evaluation.statistics import SIGNIFICANCE_LEVEL
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
        cells = [_points(s["systems"][system]["nDCG@10"]) + _star(s["systems"][system]) for s in summaries.values()]
        style = "bold green" if system == "routed" else ("dim" if system.endswith("oracle") else None)
        table.add_row(system, *cells, _points(evaluation.mean(system)), style=style)
    return table


def _star(summary: dict[str, Any]) -> str:
    return "*" if summary["p_vs_base"] < SIGNIFICANCE_LEVEL else ""


def write_report(evaluation: Evaluation, directory: Path, *, title: str) -> Path:
    """Write ``report.html``, ``report.md``, ``report.json`` and ``runs/``.

    Plots are included where the ``plots`` extra is installed.

    Returns:
        The path of the HTML page.
    """
    directory.mkdir(parents=True, exist_ok=True)
    content = evaluation.to_dict()
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
        cells = [_points(s["systems"][system]["nDCG@10"]) + _star(s["systems"][system]) for s in summaries.values()]
        lines.append(f"| {system} | " + " | ".join(cells) + f" | {_points(evaluation.mean(system))} |")
    return "\n".join(lines) + "\n"


def _html(evaluation: Evaluation, content: dict[str, Any], title: str) -> str:
    environment = Environment(loader=PackageLoader("routerretriever.evaluation"), autoescape=True)
    summaries = content["collections"]
    return environment.get_template("report.html.j2").render(
        title=title,
        version=__version__,
        collections=list(summaries),
        queries=sum(summary["queries"] for summary in summaries.values()),
        cards=_cards(evaluation),
        rows=[_row(evaluation, summaries, system) for system in evaluation.systems],
        choices=[_choice(name, summary) for name, summary in summaries.items()],
        plots=_plots(evaluation, summaries),
    )


def _cards(evaluation: Evaluation) -> list[dict[str, str]]:
    base, routed, oracle = (evaluation.mean(system) for system in ("base", "routed", "dataset_oracle"))
    cards = [
        {"label": "base", "value": _points(base)},
        {"label": "routed", "value": _points(routed)},
        {"label": "DatasetOracle", "value": _points(oracle)},
        {
            "label": "points over base",
            "value": f"{100 * (routed - base):+.1f}",
            "kind": "up" if routed >= base else "down",
        },
    ]
    if oracle - base > 0.005:
        cards.append({"label": "of the oracle's gain", "value": f"{100 * (routed - base) / (oracle - base):.0f}%"})
    return cards


def _row(evaluation: Evaluation, summaries: dict[str, Any], system: str) -> dict[str, Any]:
    cells = []
    for summary in summaries.values():
        scores, base = summary["systems"][system], summary["systems"]["base"]["nDCG@10"]
        difference = scores["nDCG@10"] - base
        cells.append(
            {
                "value": _points(scores["nDCG@10"]),
                "kind": "up" if difference > 0.0005 else "down" if difference < -0.0005 else "",
                "mark": _star(scores),
                "low": _points(scores["ci95"][0]),
                "high": _points(scores["ci95"][1]),
                "p": f"{scores['p_vs_base']:.4f}",
            }
        )
    return {"system": system, "cells": cells, "mean": _points(evaluation.mean(system))}


def _choice(name: str, summary: dict[str, Any]) -> dict[str, Any]:
    routed = summary["systems"]["routed"]
    chosen = ", ".join(f"{candidate} {count}" for candidate, count in summary["chosen"].items())
    return {
        "name": name,
        "queries": summary["queries"],
        "helped": f"{100 * routed['helped']:.0f}%",
        "hurt": f"{100 * routed['hurt']:.0f}%",
        "chosen": chosen or "base (no pilot library)",
    }


def _plots(evaluation: Evaluation, summaries: dict[str, Any]) -> list[str]:
    try:
        import plotly.graph_objects as go
    except ImportError:
        return []
    names = list(summaries)
    colours = {"base": "#9aa7b5", "merged": "#d9a441", "routed": "#0a7d4f", "dataset_oracle": "#3b5b92"}
    bars = go.Figure()
    for system, colour in colours.items():
        values = [100 * summaries[name]["systems"][system]["nDCG@10"] for name in names]
        intervals = [summaries[name]["systems"][system]["ci95"] for name in names]
        bars.add_bar(
            name=system,
            x=names,
            y=values,
            marker_color=colour,
            error_y={
                "array": [100 * high - value for (_, high), value in zip(intervals, values, strict=True)],
                "arrayminus": [value - 100 * low for (low, _), value in zip(intervals, values, strict=True)],
                "thickness": 1,
                "color": "#5d6b7e",
            },
        )
    bars.update_layout(barmode="group", yaxis_title="nDCG@10 × 100", title="With 95% intervals")
    candidates = ["base", "merged", *(s.removeprefix("expert:") for s in evaluation.systems if s.startswith("expert:"))]
    shares = [
        [100 * summaries[name]["chosen"].get(candidate, 0) / summaries[name]["queries"] for candidate in candidates]
        for name in names
    ]
    heat = go.Figure(
        go.Heatmap(
            x=candidates,
            y=names,
            z=shares,
            zmin=0,
            zmax=100,
            colorscale="Greens",
            texttemplate="%{z:.0f}%",
            colorbar={"title": "% of queries"},
        )
    )
    heat.update_layout(title="Candidate chosen, by collection", yaxis={"autorange": "reversed"})
    pages = []
    for number, figure in enumerate((bars, heat)):
        figure.update_layout(template="plotly_white", height=420, margin={"l": 60, "r": 20, "t": 50, "b": 40})
        pages.append(figure.to_html(full_html=False, include_plotlyjs=number == 0))
    return pages


def write_runs(evaluation: Evaluation, directory: Path) -> None:
    """One TREC run file for every collection and system that ranks documents."""
    directory.mkdir(parents=True, exist_ok=True)
    for result in evaluation.collections:
        for system, scores in result.systems.items():
            if not scores.run:
                continue
            tag = system.replace(":", "-")
            lines = [
                f"{query_id} Q0 {document_id} {rank} {score:.6f} {tag}\n"
                for query_id, ranked in scores.run.items()
                for rank, (document_id, score) in enumerate(ranked.items(), start=1)
            ]
            (directory / f"{result.name}.{tag}.trec").write_text("".join(lines), encoding="utf-8")
