"""What commands print: lines, tables, JSON and errors."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from routerretriever.errors import RouterRetrieverError

# Queries and documents are shown as they are: brackets are no markup, numbers get no colour.
out = Console(markup=False, highlight=False)
err = Console(stderr=True, markup=False, highlight=False)

MISSING = "–"
"""What a table shows where there is no figure."""


def say(text: str | Text, to: Console = out) -> None:
    """Print a line without wrapping it, because people copy commands and paths from it."""
    to.print(text, soft_wrap=True)


def show_table(table: Table) -> None:
    """Print a table to standard output."""
    out.print(table)


def show_error(error: RouterRetrieverError, *, as_json: bool) -> None:
    """Print an error: one line to standard error, or a JSON document to standard output."""
    kind = type(error).__name__
    if as_json:
        print_json({"error": {"type": kind, "message": str(error)}})
    else:
        say(Text.assemble((kind, "bold red"), f": {error}"), err)


def print_json(content: Any) -> None:
    """Print one JSON document to standard output; NaN and infinity become null."""
    document = json.dumps(_finite(content), ensure_ascii=False, indent=2, allow_nan=False, default=str)
    sys.stdout.write(document + "\n")


def points(value: float, *, signed: bool = False) -> str:
    """Return a measure between 0 and 1 in points of 100, with one decimal."""
    if math.isnan(value):
        return MISSING
    if signed:
        return f"{100 * value:+.1f}"
    return f"{100 * value:.1f}"


def size(count: int | None) -> str:
    """Return a number of bytes as people read it; of an object store it is not known."""
    return "size unknown" if count is None else decimal(count)


def _finite(content: Any) -> Any:
    """Return the content with None in place of numbers that JSON cannot hold."""
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return content
