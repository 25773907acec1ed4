"""The one reader of text files line by line: every fault names the file and the line."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from routerretriever.errors import CollectionError


def _open_text(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """(file and line number, line) of a text file; reading faults become CollectionError."""
    number = 0
    try:
        with _open_text(path) as file:
            for line in file:
                number += 1
                if line.strip():
                    yield f"{path}, line {number}", line
    except FileNotFoundError as error:
        raise CollectionError(f"{path} is missing. A BEIR directory needs it.") from error
    except UnicodeDecodeError as error:
        raise CollectionError(
            f"{path}, after line {number}: not UTF-8 ({error.reason}). Convert it, for example with iconv."
        ) from error
    except (OSError, EOFError) as error:
        raise CollectionError(f"{path}, after line {number}: cannot be read ({error}).") from error


def read_jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each line's place (file and line number) and its JSON object."""
    for where, line in read_lines(path):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise CollectionError(
                f"{where}: not valid JSON ({error}). The file may be truncated; write it again."
            ) from error
        if not isinstance(record, dict):
            raise CollectionError(f"{where}: expected a JSON object, found {type(record).__name__}.")
        yield where, record
