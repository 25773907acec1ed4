"""``routerretriever shadow``: sum up what an expert that does not answer yet would have changed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel, ValidationError
from rich.table import Table

from routerretriever.cli.common import AsJson
from routerretriever.cli.formatting import out, print_json, say
from routerretriever.data.jsonl import numbered_lines
from routerretriever.errors import ServerError

ShadowFile = Annotated[
    Path,
    typer.Argument(metavar="LOG.jsonl", help="What serve --shadow-log wrote.", show_default=False),
]
Examples = Annotated[int, typer.Option(min=0, help="Show this many of the queries that change most.")]


class _Hit(BaseModel):
    id: str
    collection: str
    rank: int
    score: float


class _Line(BaseModel):
    query: str
    shadow: str
    answered: str
    predicted_gain: float
    overlap: float
    changed: bool
    first_changed: bool
    came: list[_Hit]
    went: list[_Hit]


def shadow(log: ShadowFile, examples: Examples = 5, as_json: AsJson = False) -> None:
    """Sum up LOG: how many searches an expert would change, and how much, by what answers them now."""
    groups: dict[tuple[str, str], list[_Line]] = defaultdict(list)
    for line in _read(log):
        groups[line.shadow, line.answered].append(line)
    rows = [_summary(*names, lines) for names, lines in sorted(groups.items())]
    lines = sorted(
        (line for group in groups.values() for line in group),
        key=lambda line: line.overlap,
    )
    if as_json:
        shown = [line.model_dump() for line in lines[:examples]]
        print_json({"log": str(log), "groups": rows, "examples": shown})
        return
    _show(rows)
    for line in lines[:examples]:
        say(f"{line.overlap:.0%} stay: {line.query}")
        if line.came:
            say(f"  comes first: {line.came[0].id} (rank {line.came[0].rank})")


def _summary(expert: str, answered: str, lines: Sequence[_Line]) -> dict[str, Any]:
    def mean(values: Sequence[float]) -> float:
        return round(sum(values) / len(values), 4)

    return {
        "shadow": expert,
        "answered": answered,
        "queries": len(lines),
        "changed": sum(line.changed for line in lines),
        "first_changed": sum(line.first_changed for line in lines),
        "mean_overlap": mean([line.overlap for line in lines]),
        "mean_predicted_gain": mean([line.predicted_gain for line in lines]),
    }


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


def _read(log: Path) -> list[_Line]:
    try:
        with log.open("rb") as file:
            found = [_parsed(log, number, content) for number, content in numbered_lines(file)]
    except OSError as error:
        raise ServerError(f"The log {log} cannot be read ({type(error).__name__}).") from error
    if not found:
        raise ServerError(f"{log} is empty: no query was routed to the expert yet.")
    return found


def _parsed(log: Path, number: int, content: bytes) -> _Line:
    try:
        return _Line.model_validate_json(content)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, fault["loc"])) or "the line"
        raise ServerError(
            f"{log}, line {number}: {where}: {fault['msg']}. Give a file that serve --shadow-log wrote."
        ) from error
