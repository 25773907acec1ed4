"""``routerretriever shadow``: sum up what an expert that does not answer yet would have changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from routerretriever.cli.common import AsJson
from routerretriever.cli.formatting import out, print_json, say

ShadowFile = Annotated[
    Path,
    typer.Argument(metavar="LOG.jsonl", help="What serve --shadow-log wrote.", show_default=False),
]
Examples = Annotated[int, typer.Option(min=0, help="Show this many of the queries that change most.")]


def shadow(log: ShadowFile, examples: Examples = 5, as_json: AsJson = False) -> None:
    """Sum up LOG: how many searches an expert would change, and how much, by what answers them now."""
    from routerretriever.feedback.shadow_log import read_shadow_log, summed_up

    found = read_shadow_log(log)
    rows = summed_up(found)
    most_changed = sorted(found, key=lambda line: line.overlap)[:examples]
    if as_json:
        shown = [line.model_dump() for line in most_changed]
        print_json({"log": str(log), "groups": rows, "examples": shown})
        return
    _show(rows)
    for line in most_changed:
        say(f"{line.overlap:.0%} stay: {line.query}")
        if line.came:
            say(f"  comes first: {line.came[0].id} (rank {line.came[0].rank})")


def _show(rows: Sequence[Mapping[str, Any]]) -> None:
    table = Table(
        "expert",
        "instead of",
        "queries",
        "changed",
        "other first hit",
        "overlap",
        "predicted gain",
    )
    for row in rows:
        gain = f"{100 * row['mean_predicted_gain']:+.1f}"
        counts = [str(row[name]) for name in ("queries", "changed", "first_changed")]
        table.add_row(row["shadow"], row["answered"], *counts, f"{row['mean_overlap']:.0%}", gain)
    out.print(table)
