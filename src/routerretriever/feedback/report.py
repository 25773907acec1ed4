"""Show what a log did: a table for the terminal, and a folder with an HTML page and JSON."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from rich.table import Table

from routerretriever.feedback.core import FeedbackReport, GroupReport
from routerretriever.feedback.gains import MIN_QUERIES
from routerretriever.version import __version__


def feedback_table(report: FeedbackReport) -> Table:
    """Groups of the traffic, and every expert's gain there as far as it is believed."""
    experts = list(report.groups[0].gains) if report.groups else []
    table = Table("queries", "share", "clicks", *experts, "", title="Gain over base on what was shown (nDCG@10 points)")
    for group in report.groups:
        cells = [_gain(group, name) for name in experts]
        fate = "added" if group.added else "left out"
        table.add_row(
            f"{group.name} ({group.queries})",
            f"{100 * group.share:.0f}%",
            str(group.clicks),
            *cells,
            f"{fate}: {group.reason}",
        )
    return table


def _gain(group: GroupReport, name: str) -> str:
    error = group.errors[name]
    if error is None:
        return "–"
    return f"{100 * group.gains[name]:+.1f} ± {100 * error:.1f}"


def _unserved(group: GroupReport) -> bool:
    return group.far and not group.added


def missing(group: GroupReport) -> bool:
    """No pilot knows these queries, no expert serves them, and they are enough to say so."""
    return _unserved(group) and group.queries >= MIN_QUERIES


def commands(group: GroupReport, model: str) -> tuple[str, ...]:
    """What makes an expert for a group, with a placeholder for the documents that only the user has."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", _served(group)).strip("-_") or "new"  # it becomes the expert's name
    made, model = f"{plain[:32]}-made", shlex.quote(model)
    return (
        f"routerretriever synthesize DOCUMENTS --out {made} --retriever {model}",
        f"routerretriever train {model} {made}",
        f"routerretriever library {model} {made}",
    )


def advice(group: GroupReport) -> tuple[str, ...]:
    """What the placeholder stands for, and how far the result is to be trusted."""
    return (
        f"DOCUMENTS stands for the files that the collection '{_served(group)}' was indexed from, of which most "
        "of what was shown is.",
        "Do not believe gains on generated queries: judge some of the logged queries instead, make a test split of "
        "them, and run routerretriever evaluate before you rely on the expert.",
    )


def _served(group: GroupReport) -> str:
    return next((name for name in group.shown if name), "documents")


def summary(report: FeedbackReport) -> list[str]:
    """What the table does not say, in sentences."""
    lines = [
        f"{report.used} of {report.lines} lines used, {len(report.problems)} refused, {report.applied_before} applied "
        f"before, {report.too_old} too old.",
        f"Estimated by {report.estimator}; only documents that were shown count.",
        f"{100 * report.far_share:.0f}% of the traffic is far from every pilot (familiarity below {report.limit:.3f}, "
        "the library's own limit).",
    ]
    if few := [group for group in report.groups if _unserved(group) and not missing(group)]:
        told = ", ".join(f"{group.name} ({group.queries}, such as '{group.examples[0]}')" for group in few)
        lines.append(f"Too few to tell whether they need an expert (under {MIN_QUERIES} different queries): {told}.")
    if not report.batch:
        lines.append("Nothing was added: the library is as it was, and these lines may be given again with more.")
    return lines


def to_dict(report: FeedbackReport, model: str) -> dict[str, Any]:
    """The document that ``--json`` prints."""
    content = report.to_dict()
    for group, row in zip(report.groups, content["groups"], strict=True):
        row["commands"] = commands(group, model) if missing(group) else ()
    return content


def write_report(report: FeedbackReport, directory: Path, *, model: str) -> Path:
    """Write ``feedback.html`` and ``feedback.json``; answers where the page is."""
    directory.mkdir(parents=True, exist_ok=True)
    content = json.dumps(to_dict(report, model), ensure_ascii=False, indent=2)
    (directory / "feedback.json").write_text(content + "\n", encoding="utf-8")
    environment = Environment(loader=PackageLoader("routerretriever.feedback"), autoescape=True)
    page = directory / "feedback.html"
    text = environment.get_template("feedback.html.j2").render(
        report=report,
        version=__version__,
        summary=summary(report),
        experts=list(report.groups[0].gains) if report.groups else [],
        rows=[(group, [_cell(group, name) for name in group.gains]) for group in report.groups],
        wanted=[(group, commands(group, model), advice(group)) for group in report.groups if missing(group)],
        plot=_plot(report),
    )
    page.write_text(text, encoding="utf-8")
    return page


def _cell(group: GroupReport, name: str) -> dict[str, str]:
    value = group.believed[name]
    return {"text": _gain(group, name), "kind": "up" if value > 0 else "down" if value < 0 else ""}


def _plot(report: FeedbackReport) -> str:
    """Share of the traffic by group, where the ``plots`` extra is installed."""
    try:
        import plotly.graph_objects as go
    except ImportError:
        return ""
    groups = report.groups
    colours = ["#d9a441" if group.far else "#0a7d4f" for group in groups]
    bars = go.Figure(
        go.Bar(x=[group.name for group in groups], y=[100 * group.share for group in groups], marker_color=colours)
    )
    bars.update_layout(
        template="plotly_white",
        height=360,
        yaxis_title="% of lines",
        title="Traffic: known to the pilots (green) and far from all of them (yellow)",
    )
    text: str = bars.to_html(full_html=False, include_plotlyjs=True)
    return text
