"""Write a suite's results: one HTML page, Markdown, LaTeX, JSON and TREC runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from routerretriever.bench.catalogue import ROUTED
from routerretriever.bench.plots import plots
from routerretriever.bench.runner import Bench
from routerretriever.bench.seed_result import SeedResult
from routerretriever.bench.tables import (
    CEILINGS,
    CEILINGS_TITLE,
    COST_HEADS,
    COSTS,
    caption,
    ceilings,
    cell,
    costs,
    group_cell,
    latex,
    markdown,
    points,
    present_groups,
)
from routerretriever.evaluation.report import difference_style
from routerretriever.evaluation.trec_runs import run_file_name, write_trec_run
from routerretriever.routing.candidates import BASE
from routerretriever.version import __version__


def write(document: Mapping[str, Any], directory: Path) -> Path:
    """Write ``report.json``, ``report.md``, ``report.tex`` and ``report.html``; return the page."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "report.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (directory / "report.md").write_text(markdown(document), encoding="utf-8")
    (directory / "report.tex").write_text(latex(document), encoding="utf-8")
    page = directory / "report.html"
    page.write_text(html(document), encoding="utf-8")
    return page


def write_runs(bench: Bench, seeds: Mapping[int, SeedResult], directory: Path) -> None:
    """Write TREC runs of the first seed, one for each collection and system.

    Scores are reciprocal ranks.
    """
    directory.mkdir(parents=True, exist_ok=True)
    result = next(iter(seeds.values()))
    for system, outcomes in result.outcomes.items():
        tag = system.replace(":", "-").replace("+", "-and-")
        for collection, outcome in outcomes.items():
            ids = bench.collections[collection].document_ids
            queries = bench.test_split(collection).queries
            run: dict[str, dict[str, float]] = {}
            for query_id, rows in zip(queries, outcome.ranking.tolist(), strict=True):
                found = enumerate(rows, start=1)
                run[query_id] = {ids[row]: 1 / rank for rank, row in found if row >= 0}
            write_trec_run(run, directory / run_file_name(collection, tag), tag)


def html(document: Mapping[str, Any]) -> str:
    """Return one self-contained page; its plots need the ``plots`` extra."""
    environment = Environment(loader=PackageLoader("routerretriever.bench"), autoescape=True)
    groups = present_groups(document)
    return environment.get_template("bench.html.j2").render(
        document=document,
        version=__version__,
        caption=caption(document),
        groups=groups,
        rows=[_row(document, name, row) for name, row in document["systems"].items()],
        cards=_cards(document, groups),
        plots=plots(document),
        ceilings=ceilings(document),
        ceilings_title=CEILINGS_TITLE,
        ceilings_text=CEILINGS,
        costs=costs(document),
        cost_heads=COST_HEADS,
        costs_text=COSTS,
        points=points,
    )


def _row(document: Mapping[str, Any], name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    base = document["systems"][BASE]
    cells = []
    for collection in document["collections"]:
        figures = row["collections"][collection]
        difference = figures["nDCG@10"] - base["collections"][collection]["nDCG@10"]
        low, high = map(points, figures["ci95"])
        cells.append(
            {
                "text": cell(row, collection),
                "kind": difference_style(difference),
                "title": f"{low} to {high} (95%); p against base {figures['p_vs_base']:.4f}; "
                f"helped {figures['helped']:.0%}, hurt {figures['hurt']:.0%}",
            }
        )
    kind = ""
    if name == ROUTED:
        kind = ROUTED
    elif row["oracle"]:
        kind = "oracle"
    totals = [group_cell(row, group) for group in present_groups(document)]
    return {"name": name, "kind": kind, "totals": totals, "cells": cells}


def _cards(document: Mapping[str, Any], groups: list[str]) -> list[dict[str, str]]:
    systems, cards = document["systems"], []
    for group in groups:
        over_base = systems[ROUTED][group]["mean"] - systems[BASE][group]["mean"]
        cards.append(_signed_card(over_base, f"points over base, {group}"))
        share = systems[ROUTED][group]["share"]
        if group == "seen" and share is not None:
            cards.append({"value": f"{100 * share:.0f}%", "label": "of DatasetOracle's gain, seen"})
        worst, difference = systems[ROUTED][group]["worst"]
        cards.append(_signed_card(difference, f"worst collection, {group}: {worst}"))
    if document["abstention_auroc"] is not None:
        cards.append({"value": f"{document['abstention_auroc']:.3f}", "label": "AUROC, seen against unseen"})
    return cards


def _signed_card(difference: float, label: str) -> dict[str, str]:
    kind = "up" if difference >= 0 else "down"
    return {"value": f"{100 * difference:+.1f}", "kind": kind, "label": label}
