"""Plots of a suite's results, made with plotly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from routerretriever.bench.tables import present_groups, study_labels
from routerretriever.routing.candidates import BASE


def plots(document: Mapping[str, Any]) -> list[str]:
    """Return the plots as HTML, the first with plotly's script; without plotly there are none."""
    try:
        import plotly.graph_objects as go
    except ImportError:
        return []
    figures = [_overview(go, document), _choices(go, document)]
    if document["calibration"]:
        figures.append(_reliability(go, document["calibration"]))
    for study in document["studies"]:
        figures.append(_study(go, study))

    pages = []
    for number, figure in enumerate(figures):
        figure.update_layout(template="plotly_white", height=430, margin={"l": 60, "r": 20, "t": 50, "b": 50})
        pages.append(figure.to_html(full_html=False, include_plotlyjs=number == 0))
    return pages


def _overview(go: Any, document: Mapping[str, Any]) -> Any:
    figure = go.Figure()
    for group, symbol in zip(present_groups(document), ("circle", "diamond"), strict=False):
        base = document["systems"][BASE][group]["mean"]
        names, gains = [], []
        for name, row in document["systems"].items():
            if not name.startswith("expert:"):
                names.append(name)
                gains.append(100 * (row[group]["mean"] - base))
        figure.add_scatter(
            x=gains, y=names, mode="markers", name=group, marker={"size": 11, "symbol": symbol}
        )
    figure.add_vline(x=0, line_color="#9aa7b5")
    figure.update_layout(
        title="Points over base", xaxis_title="nDCG@10 × 100 over base", yaxis={"autorange": "reversed"}
    )
    return figure


def _choices(go: Any, document: Mapping[str, Any]) -> Any:
    candidates = [BASE, "merged", *document["groups"]["seen"]]
    rows = document["collections"]
    shares = []
    for row in rows.values():
        chosen, queries = row["chosen"], row["queries"]
        shares.append([100 * chosen.get(candidate, 0) / queries for candidate in candidates])
    heat = go.Heatmap(
        x=candidates, y=list(rows), z=shares, zmin=0, zmax=100, colorscale="Greens", texttemplate="%{z:.0f}"
    )
    figure = go.Figure(heat)
    figure.update_layout(
        title="Candidate chosen by the default router, % of queries", yaxis={"autorange": "reversed"}
    )
    return figure


def _reliability(go: Any, calibration: Mapping[str, Any]) -> Any:
    figure = go.Figure()
    predicted = [100 * value for value in calibration["predicted"]]
    measured = [100 * value for value in calibration["measured"]]
    ends = [min(predicted), max(predicted)]
    figure.add_scatter(x=ends, y=ends, mode="lines", name="perfect", line={"dash": "dot", "color": "#9aa7b5"})
    figure.add_scatter(
        x=predicted, y=measured, mode="lines+markers", name="measured", line={"color": "#0a7d4f"}
    )
    figure.update_layout(
        title=f"Predicted against measured gain (expected calibration error {100 * calibration['error']:.1f} points)",
        xaxis_title="predicted gain",
        yaxis_title="measured gain",
    )
    return figure


def _study(go: Any, study: Mapping[str, Any]) -> Any:
    figure = go.Figure()
    for label in study_labels(study):
        settings, values = [], []
        for point in study["points"]:
            if label in point["figures"]:
                settings.append(point["setting"])
                values.append(100 * point["figures"][label])
        figure.add_scatter(x=settings, y=values, mode="lines+markers", name=label)
    figure.update_layout(
        title=study["title"], xaxis={"title": study["axis"], "type": "category"}, yaxis_title="nDCG@10 × 100"
    )
    return figure
