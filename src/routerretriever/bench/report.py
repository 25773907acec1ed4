"""Show a suite's results: one HTML page, Markdown, LaTeX, JSON and TREC runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from routerretriever.bench.catalogue import ROUTED
from routerretriever.bench.runner import Bench, SeedResult
from routerretriever.routing.candidates import BASE
from routerretriever.version import __version__

_SIGNIFICANT = 0.05


def write(document: Mapping[str, Any], directory: Path) -> Path:
    """Write ``report.json``, ``report.md``, ``report.tex`` and ``report.html``; returns the page."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "report.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (directory / "report.md").write_text(markdown(document), encoding="utf-8")
    (directory / "report.tex").write_text(latex(document), encoding="utf-8")
    page = directory / "report.html"
    page.write_text(html(document), encoding="utf-8")
    return page


CEILINGS_TITLE = "how far choosing gets"
CEILINGS = (
    "What choosing among these experts can gain at most. DatasetOracle bounds every rule that sends a collection to "
    "one expert. InstanceOracle chooses for every query by its judgements and thereby profits from chance; chosen by "
    "experts of other seeds it cannot. What lies above needs better experts, not better routing."
)
_BOUNDS = {
    "dataset-oracle": "DatasetOracle",
    "instance-oracle-controlled": "InstanceOracle, chosen by experts of other seeds",
    "instance-oracle": "InstanceOracle",
}


def write_runs(bench: Bench, seeds: Mapping[int, SeedResult], directory: Path) -> None:
    """A TREC run file for every collection and system of the first seed; scores are reciprocal ranks."""
    directory.mkdir(parents=True, exist_ok=True)
    result = next(iter(seeds.values()))
    for system, outcomes in result.outcomes.items():
        tag = system.replace(":", "-").replace("+", "-and-")
        for collection, outcome in outcomes.items():
            ids = bench.collections[collection].document_ids
            lines = [
                f"{query_id} Q0 {ids[row]} {rank} {1 / rank:.6f} {tag}\n"
                for query_id, rows in zip(bench.test_split(collection).queries, outcome.ranking.tolist(), strict=True)
                for rank, row in enumerate(rows, start=1)
                if row >= 0
            ]
            (directory / f"{collection}.{tag}.trec").write_text("".join(lines), encoding="utf-8")


# -- tables ----------------------------------------------------------------------------------------


def _points(value: float) -> str:
    return f"{100 * value:.1f}"


def _cell(row: Mapping[str, Any], collection: str) -> str:
    figures = row["collections"][collection]
    return _points(figures["nDCG@10"]) + ("*" if figures["p_vs_base"] < _SIGNIFICANT else "")


def _group_cell(row: Mapping[str, Any], group: str) -> str:
    figures = row[group]
    spread = "" if figures["sd"] is None else f" ± {_points(figures['sd'])}"
    mark = "†" if figures.get("p_vs_routed", 1.0) < _SIGNIFICANT else ""
    return _points(figures["mean"]) + spread + mark


def _groups(document: Mapping[str, Any]) -> list[str]:
    return [group for group, members in document["groups"].items() if members]


def markdown(document: Mapping[str, Any]) -> str:
    """The main table and the routing figures."""
    groups, collections = _groups(document), document["collections"]
    lines = [f"# {document['suite']}", "", _caption(document), ""]
    lines.append("| system | " + " | ".join([*groups, *collections]) + " |")
    lines.append("|---|" + "--:|" * (len(groups) + len(collections)))
    for name, row in document["systems"].items():
        cells = [_group_cell(row, group) for group in groups] + [_cell(row, c) for c in collections]
        title = f"**{name}**" if name == ROUTED else f"*{name}*" if row["oracle"] else name
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    for title, published in document["published"].items():
        cells = ["–"] * len(groups) + [str(published.get(c, "–")) for c in collections]
        lines.append(f"| published: {title} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "| system | group | share of oracle's gain | helped | hurt | worst collection |",
        "|---|---|--:|--:|--:|---|",
    ]
    for name, row in document["systems"].items():
        if row["oracle"] or name == BASE or name.startswith("expert:"):
            continue
        for group in groups:
            figures = row[group]
            share = "–" if figures["share"] is None else f"{100 * figures['share']:.0f}%"
            worst = f"{figures['worst'][0]} {100 * figures['worst'][1]:+.1f}"
            rates = f"{100 * figures['helped']:.0f}% | {100 * figures['hurt']:.0f}%"
            lines.append(f"| {name} | {group} | {share} | {rates} | {worst} |")
    heads = [CEILINGS_TITLE, *groups]
    lines += ["", CEILINGS, "", "| " + " | ".join(heads) + " |", "|---|" + "--:|" * len(groups)]
    lines += ["| " + " | ".join(row) + " |" for row in ceilings(document)]
    lines += ["", *(f"- {note}" for note in document["notes"])]
    for study in document["studies"]:
        labels = list(dict.fromkeys(label for point in study["points"] for label in point["figures"]))
        lines += ["", f"## {study['title']}", "", f"| {study['axis']} | " + " | ".join(labels) + " |"]
        lines.append("|---|" + "--:|" * len(labels))
        for point in study["points"]:
            cells = [_points(point["figures"][label]) if label in point["figures"] else "–" for label in labels]
            lines.append(f"| {point['setting']} | " + " | ".join(cells) + " |")
    return "\n".join(lines).rstrip() + "\n"


def ceilings(document: Mapping[str, Any]) -> list[list[str]]:
    """How far each kind of choice gets: a title and a figure for every group with collections."""
    groups, systems = _groups(document), document["systems"]
    rows = [["base", *(_points(systems[BASE][group]["mean"]) for group in groups)]]
    rows.append(["routed (default)", *(_points(systems[ROUTED][group]["mean"]) for group in groups)])
    rivals = {
        name: row
        for name, row in systems.items()
        if not row["oracle"] and name not in (BASE, ROUTED) and not name.startswith(("expert:", "bm25"))
    }
    if rivals:
        best = [max(rivals, key=lambda name: rivals[name][group]["mean"]) for group in groups]
        cells = [f"{_points(rivals[name][group]['mean'])} ({name})" for name, group in zip(best, groups, strict=True)]
        rows.append(["the best other, on each side another", *cells])
    for name, title in _BOUNDS.items():
        if name in systems:
            rows.append([f"*{title}*", *(_points(systems[name][group]["mean"]) for group in groups)])
    return rows


def _caption(document: Mapping[str, Any]) -> str:
    seeds = len(document["seeds"])
    return (
        f"nDCG@10 × 100, base {document['base']}, mean of {seeds} seed{'s' if seeds > 1 else ''}. "
        "* differs from base (p < 0.05, paired randomisation test, Holm-corrected over collections); "
        "† differs from routed on the pooled queries (the same, corrected over systems). Oracles see the judgements."
    )


def latex(document: Mapping[str, Any]) -> str:
    """The main table for a paper (booktabs)."""
    groups, collections = _groups(document), list(document["collections"])
    head = " & ".join(_escaped(name) for name in ["", *groups, *collections])
    lines = [
        rf"\begin{{tabular}}{{l{'r' * (len(groups) + len(collections))}}}",
        r"\toprule",
        head + r" \\",
        r"\midrule",
    ]
    for name, row in document["systems"].items():
        cells = [_group_cell(row, group) for group in groups] + [_cell(row, c) for c in collections]
        cells = [cell.replace("±", r"$\pm$").replace("†", r"$^\dagger$") for cell in cells]
        title = rf"\textbf{{{_escaped(name)}}}" if name == ROUTED else _escaped(name)
        lines.append(" & ".join([title, *cells]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _escaped(text: str) -> str:
    return text.replace("_", r"\_").replace("&", r"\&")


# -- the page --------------------------------------------------------------------------------------


def html(document: Mapping[str, Any]) -> str:
    """One self-contained page; plots need the ``plots`` extra."""
    environment = Environment(loader=PackageLoader("routerretriever.bench"), autoescape=True)
    groups = _groups(document)
    return environment.get_template("bench.html.j2").render(
        document=document,
        version=__version__,
        caption=_caption(document),
        groups=groups,
        rows=[_row(document, name, row) for name, row in document["systems"].items()],
        cards=_cards(document, groups),
        plots=_plots(document),
        ceilings=ceilings(document),
        ceilings_title=CEILINGS_TITLE,
        ceilings_text=CEILINGS,
        points=_points,
    )


def _row(document: Mapping[str, Any], name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    base = document["systems"][BASE]
    cells = []
    for collection in document["collections"]:
        figures = row["collections"][collection]
        difference = figures["nDCG@10"] - base["collections"][collection]["nDCG@10"]
        low, high = (_points(bound) for bound in figures["ci95"])
        cells.append(
            {
                "text": _cell(row, collection),
                "kind": "up" if difference > 0.0005 else "down" if difference < -0.0005 else "",
                "title": f"{low} to {high} (95%); p against base {figures['p_vs_base']:.4f}; "
                f"helped {figures['helped']:.0%}, hurt {figures['hurt']:.0%}",
            }
        )
    kind = ROUTED if name == ROUTED else "oracle" if row["oracle"] else ""
    totals = [_group_cell(row, group) for group in _groups(document)]
    return {"name": name, "kind": kind, "totals": totals, "cells": cells}


def _cards(document: Mapping[str, Any], groups: list[str]) -> list[dict[str, str]]:
    systems, cards = document["systems"], []
    for group in groups:
        routed, base = (systems[name][group]["mean"] for name in (ROUTED, BASE))
        kind = "up" if routed >= base else "down"
        cards.append({"value": f"{100 * (routed - base):+.1f}", "kind": kind, "label": f"points over base, {group}"})
        share = systems[ROUTED][group]["share"]
        if group == "seen" and share is not None:
            cards.append({"value": f"{100 * share:.0f}%", "label": "of DatasetOracle's gain, seen"})
        worst, difference = systems[ROUTED][group]["worst"]
        kind = "up" if difference >= 0 else "down"
        cards.append(
            {"value": f"{100 * difference:+.1f}", "kind": kind, "label": f"worst collection, {group}: {worst}"}
        )
    if document["abstention_auroc"] is not None:
        cards.append({"value": f"{document['abstention_auroc']:.3f}", "label": "AUROC, seen against unseen"})
    return cards


def _plots(document: Mapping[str, Any]) -> list[str]:
    try:
        import plotly.graph_objects as go
    except ImportError:
        return []
    figures = [_overview(go, document), _choices(go, document)]
    if document["calibration"]:
        figures.append(_reliability(go, document["calibration"]))
    figures += [_study(go, study) for study in document["studies"]]
    pages = []
    for number, figure in enumerate(figures):
        figure.update_layout(template="plotly_white", height=430, margin={"l": 60, "r": 20, "t": 50, "b": 50})
        pages.append(figure.to_html(full_html=False, include_plotlyjs=number == 0))
    return pages


def _overview(go: Any, document: Mapping[str, Any]) -> Any:
    names = [name for name in document["systems"] if not name.startswith("expert:")]
    figure = go.Figure()
    for group, symbol in zip(_groups(document), ("circle", "diamond"), strict=False):
        base = document["systems"][BASE][group]["mean"]
        gains = [100 * (document["systems"][name][group]["mean"] - base) for name in names]
        figure.add_scatter(x=gains, y=names, mode="markers", name=group, marker={"size": 11, "symbol": symbol})
    figure.add_vline(x=0, line_color="#9aa7b5")
    figure.update_layout(
        title="Points over base", xaxis_title="nDCG@10 × 100 over base", yaxis={"autorange": "reversed"}
    )
    return figure


def _choices(go: Any, document: Mapping[str, Any]) -> Any:
    candidates = [BASE, "merged", *document["groups"]["seen"]]
    rows = document["collections"]
    shares = [[100 * row["chosen"].get(c, 0) / row["queries"] for c in candidates] for row in rows.values()]
    heat = go.Heatmap(
        x=candidates, y=list(rows), z=shares, zmin=0, zmax=100, colorscale="Greens", texttemplate="%{z:.0f}"
    )
    figure = go.Figure(heat)
    figure.update_layout(title="Candidate chosen by the default router, % of queries", yaxis={"autorange": "reversed"})
    return figure


def _reliability(go: Any, calibration: Mapping[str, Any]) -> Any:
    figure = go.Figure()
    predicted, measured = ([100 * value for value in calibration[side]] for side in ("predicted", "measured"))
    ends = [min(predicted), max(predicted)]
    figure.add_scatter(x=ends, y=ends, mode="lines", name="perfect", line={"dash": "dot", "color": "#9aa7b5"})
    figure.add_scatter(x=predicted, y=measured, mode="lines+markers", name="measured", line={"color": "#0a7d4f"})
    figure.update_layout(
        title=f"Predicted against measured gain (expected calibration error {100 * calibration['error']:.1f} points)",
        xaxis_title="predicted gain",
        yaxis_title="measured gain",
    )
    return figure


def _study(go: Any, study: Mapping[str, Any]) -> Any:
    figure = go.Figure()
    labels = list(dict.fromkeys(label for point in study["points"] for label in point["figures"]))
    for label in labels:
        points = [point for point in study["points"] if label in point["figures"]]
        figure.add_scatter(
            x=[point["setting"] for point in points],
            y=[100 * point["figures"][label] for point in points],
            mode="lines+markers",
            name=label,
        )
    figure.update_layout(
        title=study["title"], xaxis={"title": study["axis"], "type": "category"}, yaxis_title="nDCG@10 × 100"
    )
    return figure
