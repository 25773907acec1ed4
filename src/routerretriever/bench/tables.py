"""A suite's results as tables in Markdown and LaTeX, and the cells of the page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from routerretriever.bench.catalogue import ROUTED
from routerretriever.routing.candidates import BASE

_SIGNIFICANT = 0.05

CEILINGS_TITLE = "how far choosing gets"
CEILINGS = (
    "What a choice among these experts can gain. DatasetOracle is the best that sends a whole collection to one "
    "expert; a router that chooses for each query can exceed it. InstanceOracle chooses for each query by its "
    "judgements, and so profits from chance; if experts of other seeds choose, it does not. More than that needs "
    "better experts, not better routing."
)
COST_HEADS = (
    "what it costs",
    "experts",
    "training, seconds each",
    "KB each",
    "ms, a query alone",
    "ms, a query of 64",
)
COSTS = (
    "Training is the mean time of one expert, without encoding documents. Times of queries are medians of "
    "interleaved rounds of the first seed; compare them with the base's."
)
_BOUNDS = {
    "dataset-oracle": "DatasetOracle",
    "instance-oracle-controlled": "InstanceOracle, chosen by experts of other seeds",
    "instance-oracle": "InstanceOracle",
}


def points(value: float) -> str:
    """Return a measure between 0 and 1 in points of 100."""
    return f"{100 * value:.1f}"


def cell(row: Mapping[str, Any], collection: str) -> str:
    """Return a system's figure on one collection, marked if it differs from the base."""
    figures = row["collections"][collection]
    mark = "*" if figures["p_vs_base"] < _SIGNIFICANT else ""
    return points(figures["nDCG@10"]) + mark


def group_cell(row: Mapping[str, Any], group: str) -> str:
    """Return a system's mean over a group, marked if it differs from the default router."""
    figures = row[group]
    spread = "" if figures["sd"] is None else f" ± {points(figures['sd'])}"
    mark = "†" if figures.get("p_vs_routed", 1.0) < _SIGNIFICANT else ""
    return points(figures["mean"]) + spread + mark


def present_groups(document: Mapping[str, Any]) -> list[str]:
    """Return the groups that have collections."""
    return [group for group, members in document["groups"].items() if members]


def markdown(document: Mapping[str, Any]) -> str:
    """Return the main table, the figures of routing, the bounds and the studies."""
    lines = [f"# {document['suite']}", "", caption(document), ""]
    lines += [*_main_table(document), "", *_routing_table(document), "", CEILINGS, ""]
    lines += _table([CEILINGS_TITLE, *present_groups(document)], ceilings(document))
    lines.append("")
    if cost_rows := costs(document):
        lines += [COSTS, "", *_table(COST_HEADS, cost_rows), ""]
    for note in document["notes"]:
        lines.append(f"- {note}")
    for study in document["studies"]:
        lines += ["", f"## {study['title']}", "", *_study_table(study)]
    return "\n".join(lines).rstrip() + "\n"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a table whose first column is text and whose others are figures."""
    rule = "|---|" + "--:|" * (len(heads) - 1)
    return [_line(heads), rule, *map(_line, rows)]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _main_table(document: Mapping[str, Any]) -> list[str]:
    groups, collections = present_groups(document), document["collections"]
    rows = []
    for name, row in document["systems"].items():
        title = name
        if name == ROUTED:
            title = f"**{name}**"
        elif row["oracle"]:
            title = f"*{name}*"
        rows.append([title, *_cells(document, row)])
    for title, published in document["published"].items():
        figures = [str(published.get(collection, "–")) for collection in collections]
        rows.append([f"published: {title}", *["–"] * len(groups), *figures])
    return _table(["system", *groups, *collections], rows)


def _cells(document: Mapping[str, Any], row: Mapping[str, Any]) -> list[str]:
    """Return a system's means over the groups, then its figures on the collections."""
    cells = [group_cell(row, group) for group in present_groups(document)]
    for collection in document["collections"]:
        cells.append(cell(row, collection))
    return cells


def _routing_table(document: Mapping[str, Any]) -> list[str]:
    lines = [
        "| system | group | share of oracle's gain | helped | hurt | worst collection |",
        "|---|---|--:|--:|--:|---|",
    ]
    for name, row in document["systems"].items():
        if row["oracle"] or name == BASE or name.startswith("expert:"):
            continue
        for group in present_groups(document):
            figures = row[group]
            share = "–" if figures["share"] is None else f"{100 * figures['share']:.0f}%"
            helped, hurt = f"{100 * figures['helped']:.0f}%", f"{100 * figures['hurt']:.0f}%"
            collection, difference = figures["worst"]
            worst = f"{collection} {100 * difference:+.1f}"
            lines.append(_line([name, group, share, helped, hurt, worst]))
    return lines


def _study_table(study: Mapping[str, Any]) -> list[str]:
    labels = study_labels(study)
    rows = []
    for point in study["points"]:
        figures = point["figures"]
        cells = [point["setting"]]
        for label in labels:
            cells.append(points(figures[label]) if label in figures else "–")
        rows.append(cells)
    return _table([study["axis"], *labels], rows)


def study_labels(study: Mapping[str, Any]) -> list[str]:
    """Return the labels of a study's figures, in the order in which they appear."""
    labels: dict[str, None] = {}
    for point in study["points"]:
        labels |= dict.fromkeys(point["figures"])
    return list(labels)


def ceilings(document: Mapping[str, Any]) -> list[list[str]]:
    """Return a title and the mean of each group for each kind of choice."""
    groups, systems = present_groups(document), document["systems"]

    def means(name: str) -> list[str]:
        return [points(systems[name][group]["mean"]) for group in groups]

    rows = [["base", *means(BASE)], ["routed (default)", *means(ROUTED)]]
    rivals = []
    for name, row in systems.items():
        excluded = name in (BASE, ROUTED) or name.startswith(("expert:", "bm25"))
        if not row["oracle"] and not excluded:
            rivals.append(name)
    if rivals:
        cells = []
        for group in groups:
            best = max(rivals, key=lambda name: systems[name][group]["mean"])
            cells.append(f"{points(systems[best][group]['mean'])} ({best})")
        rows.append(["best other system of each group", *cells])
    for name, title in _BOUNDS.items():
        if name in systems:
            rows.append([f"*{title}*", *means(name)])
    return rows


def costs(document: Mapping[str, Any]) -> list[list[str]]:
    """Return a row for each system whose costs were measured; results of older versions have none."""
    rows = []
    for name, cost in document.get("costs", {}).items():
        number, seconds = cost["experts"], cost["training_seconds"]
        rows.append(
            [
                name,
                str(number) if number else "–",
                "–" if not number or seconds is None else f"{seconds / number:.0f}",
                f"{cost['bytes'] / number / 1024:.0f}" if number else "–",
                f"{cost['query_ms']:.1f}",
                f"{cost['batched_query_ms']:.1f}",
            ]
        )
    return rows


def caption(document: Mapping[str, Any]) -> str:
    """Return the text above the table."""
    seeds = len(document["seeds"])
    return (
        f"nDCG@10 × 100, base {document['base']}, mean of {seeds} seed{'s' if seeds > 1 else ''}. "
        "* differs from base (p < 0.05, paired randomisation test, Holm-corrected over collections); "
        "† differs from routed on the pooled queries (the same, corrected over systems). Oracles see the judgements."
    )


def latex(document: Mapping[str, Any]) -> str:
    """Return the main table for a paper (booktabs)."""
    groups, collections = present_groups(document), list(document["collections"])
    head = " & ".join(map(_escaped, ["", *groups, *collections]))
    lines = [
        rf"\begin{{tabular}}{{l{'r' * (len(groups) + len(collections))}}}",
        r"\toprule",
        head + r" \\",
        r"\midrule",
    ]
    for name, row in document["systems"].items():
        title = rf"\textbf{{{_escaped(name)}}}" if name == ROUTED else _escaped(name)
        cells = " & ".join(_cells(document, row))
        cells = cells.replace("±", r"$\pm$").replace("†", r"$^\dagger$")
        lines.append(f"{title} & {cells}" + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _escaped(text: str) -> str:
    return text.replace("_", r"\_").replace("&", r"\&")
