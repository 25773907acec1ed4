"""Show the outcome of a log: a table for the terminal, and a folder with an HTML page and JSON."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader
from rich.table import Table

from routerretriever.feedback.gains import MIN_QUERIES
from routerretriever.feedback.outcome import FeedbackReport, GroupReport
from routerretriever.version import __version__


def feedback_table(report: FeedbackReport) -> Table:
    """Return the groups of queries with every expert's estimated gain."""
    experts = _experts(report)
    table = Table(
        "queries",
        "share",
        "clicks",
        *experts,
        "",
        title="Gain over base on the shown documents (nDCG@10 points)",
    )
    for group in report.groups:
        cells = [_gain(group, name) for name in experts]
        outcome = "applied" if group.applied else "not applied"
        table.add_row(
            f"{group.name} ({group.queries})",
            f"{100 * group.share:.0f}%",
            str(group.clicks),
            *cells,
            f"{outcome}: {group.reason}",
        )
    return table


def _experts(report: FeedbackReport) -> list[str]:
    """Return the experts in the order of the library; all groups have the same."""
    if not report.groups:
        return []
    return list(report.groups[0].gains)


def _gain(group: GroupReport, name: str) -> str:
    error = group.errors[name]
    if error is None:
        return "–"
    return f"{100 * group.gains[name]:+.1f} ± {100 * error:.1f}"


def _unserved(group: GroupReport) -> bool:
    return group.out_of_domain and not group.applied


def missing(group: GroupReport) -> bool:
    """Return whether the group is out of domain, no expert serves it, and it is large enough to say so."""
    return _unserved(group) and group.queries >= MIN_QUERIES


def commands(group: GroupReport, model: str) -> tuple[str, ...]:
    """Return the commands that make an expert for a group; the placeholder DOCUMENTS is the user's to fill in."""
    plain = (
        re.sub(r"[^A-Za-z0-9_-]+", "-", _served(group)).strip("-_") or "new"
    )  # it becomes the expert's name
    made, model = f"{plain[:32]}-made", shlex.quote(model)
    return (
        f"routerretriever synthesize DOCUMENTS --out {made} --retriever {model}",
        f"routerretriever train {model} {made}",
        f"routerretriever library {model} {made}",
    )


def advice(group: GroupReport) -> tuple[str, ...]:
    """Return what the placeholder stands for, and how far to trust the result."""
    return (
        f"Replace DOCUMENTS with the files that the collection '{_served(group)}' was indexed from; most of the "
        "documents shown come from it.",
        "Do not rely on gains on generated queries. Judge some of the logged queries, make a test split of them, and "
        "run routerretriever evaluate before you use the expert.",
    )


def _served(group: GroupReport) -> str:
    return next((name for name in group.shown if name), "documents")


def summary(report: FeedbackReport) -> list[str]:
    """Return what the table does not say, in sentences."""
    lines = [
        f"{report.used} of {report.lines} lines used, {len(report.problems)} refused, {report.applied_before} applied "
        f"before, {report.too_old} too old.",
        f"Estimated by {report.estimator}; only shown documents count.",
        f"{100 * report.out_of_domain_share:.0f}% of the lines are out of domain (in-domain score below the library's "
        f"reject threshold, {report.reject_threshold:.3f}).",
    ]
    few = []
    for group in report.groups:
        if _unserved(group) and not missing(group):
            few.append(f"{group.name} ({group.queries}, such as '{group.examples[0]}')")
    if few:
        lines.append(
            f"Too few queries to tell whether they need an expert (under {MIN_QUERIES} different queries): "
            f"{', '.join(few)}."
        )
    if not report.batch:
        lines.append(
            "Nothing was applied: the library is unchanged. You may give these lines again in a longer log."
        )
    return lines


def to_dict(report: FeedbackReport, model: str) -> dict[str, Any]:
    """Return the document that ``--json`` prints."""
    content = report.to_dict()
    for group, row in zip(report.groups, content["groups"], strict=True):
        row["commands"] = commands(group, model) if missing(group) else ()
    return content


def write_report(report: FeedbackReport, directory: Path, *, model: str) -> Path:
    """Write ``feedback.html`` and ``feedback.json``, and return the path of the page."""
    directory.mkdir(parents=True, exist_ok=True)
    content = json.dumps(to_dict(report, model), ensure_ascii=False, indent=2)
    (directory / "feedback.json").write_text(content + "\n", encoding="utf-8")
    rows, wanted = [], []
    for group in report.groups:
        rows.append((group, [_cell(group, name) for name in group.gains]))
        if missing(group):
            wanted.append((group, commands(group, model), advice(group)))

    environment = Environment(loader=PackageLoader("routerretriever.feedback"), autoescape=True)
    page = directory / "feedback.html"
    text = environment.get_template("feedback.html.j2").render(
        report=report,
        version=__version__,
        summary=summary(report),
        experts=_experts(report),
        rows=rows,
        wanted=wanted,
        plot=_plot(report),
    )
    page.write_text(text, encoding="utf-8")
    return page


def _cell(group: GroupReport, name: str) -> dict[str, str]:
    value = group.significant[name]
    kind = {1: "up", -1: "down"}.get(int(np.sign(value)), "")
    return {"text": _gain(group, name), "kind": kind}


def _plot(report: FeedbackReport) -> str:
    """Return a plot of the lines by group, if the ``plots`` extra is installed."""
    try:
        import plotly.graph_objects as go
    except ImportError:
        return ""
    names, percentages, colours = [], [], []
    for group in report.groups:
        names.append(group.name)
        percentages.append(100 * group.share)
        colours.append("#d9a441" if group.out_of_domain else "#0a7d4f")
    bars = go.Figure(go.Bar(x=names, y=percentages, marker_color=colours))
    bars.update_layout(
        template="plotly_white",
        height=360,
        yaxis_title="% of lines",
        title="Lines in domain (green) and out of domain (yellow)",
    )
    text: str = bars.to_html(full_html=False, include_plotlyjs=True)
    return text
