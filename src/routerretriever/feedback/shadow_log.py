"""The log of ``serve --shadow``: what an expert that does not answer yet would have changed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from routerretriever.data.jsonl import numbered_lines
from routerretriever.errors import ServerError
from routerretriever.validation import first_fault


class ShadowHit(BaseModel):
    """A document that would come among the first ten, or leave them."""

    id: str
    collection: str
    rank: int
    score: float


class Difference(BaseModel):
    """How two rankings of one query differ.

    Attributes:
        overlap: share of the first hits that are in both; 1 if there are none.
        changed: whether they differ at all, in hits or order.
        first_changed: whether the first hit is another.
        came, went: hits that are in the second or the first alone.
    """

    overlap: float
    changed: bool
    first_changed: bool
    came: list[ShadowHit]
    went: list[ShadowHit]


class ShadowLine(Difference):
    """One search.

    Attributes:
        time: when it was looked at, in ISO format.
        query: its text.
        shadow: the expert that would have answered.
        answered: what did answer: an expert, ``base`` or ``merged``.
        predicted_gain: of the expert, in nDCG@10 over the base.
    """

    time: str
    query: str
    shadow: str
    answered: str
    predicted_gain: float


def read_shadow_log(log: Path) -> list[ShadowLine]:
    """Read a log.

    Raises:
        ServerError: it cannot be read, is empty, or a line is none that the server wrote.
    """
    try:
        with log.open("rb") as file:
            found = [_parsed(log, number, content) for number, content in numbered_lines(file)]
    except OSError as error:
        raise ServerError(f"The log {log} cannot be read ({type(error).__name__}).") from error
    if not found:
        raise ServerError(f"{log} is empty: no query was routed to the expert yet.")
    return found


def summed_up(lines: Sequence[ShadowLine]) -> list[dict[str, Any]]:
    """Return a row of figures for each expert and what answered instead of it."""
    groups: dict[tuple[str, str], list[ShadowLine]] = defaultdict(list)
    for line in lines:
        groups[line.shadow, line.answered].append(line)
    return [_summary(*names, group) for names, group in sorted(groups.items())]


def _summary(expert: str, answered: str, lines: Sequence[ShadowLine]) -> dict[str, Any]:
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


def _parsed(log: Path, number: int, content: bytes) -> ShadowLine:
    try:
        return ShadowLine.model_validate_json(content)
    except ValidationError as error:
        fault = first_fault(error)
        where = fault.name or "the line"
        raise ServerError(
            f"{log}, line {number}: {where}: {fault.message}. Give a file that serve --shadow-log wrote."
        ) from error
