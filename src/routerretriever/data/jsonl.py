"""Read files line by line; every error names the file and the line.

Plain files and files compressed as ``.gz`` or ``.zst`` are read. A byte order mark at the
beginning is skipped.
"""

from __future__ import annotations

import codecs
import io
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from routerretriever.data.names import compression_of
from routerretriever.errors import CollectionError

_BUFFER = 1 << 16  # bytes; at most this much before a cut in a truncated file is lost
_T = TypeVar("_T")
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class LineError(ValueError):
    """Says why a line cannot be read; the caller knows where the line is."""


def read_jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield "file, line N" and the JSON object on that line.

    Raises:
        CollectionError: the file cannot be read, or a line is not a JSON object.
    """
    return _parsed_lines(path, parse_object)


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield "file, line N" and the text of every line that is not blank.

    Raises:
        CollectionError: the file cannot be read, or is not UTF-8.
    """
    return _parsed_lines(path, decode_line)


def read_bytes(path: Path) -> bytes:
    """Return the whole content of a file, decompressed.

    Raises:
        CollectionError: the file is missing or cannot be read to its end.
    """
    try:
        with _open(path) as file:
            return file.read()
    except (OSError, EOFError) as error:
        raise _reading_error(path, "", error) from error


def _parsed_lines(path: Path, parse: Callable[[bytes], _T]) -> Iterator[tuple[str, _T]]:
    number = 0
    try:
        with _open(path) as file:
            for number, line in numbered_lines(file):
                yield f"{path}, line {number}", parse(line)
    except LineError as error:
        raise CollectionError(f"{path}, line {number}: {error}") from error
    except (OSError, EOFError) as error:
        raise _reading_error(path, f", after line {number}", error) from error


def _open(path: Path) -> io.BufferedReader:
    return io.BufferedReader(pa.input_stream(str(path), compression=compression_of(path.name)), _BUFFER)


def _reading_error(path: Path, place: str, error: Exception) -> CollectionError:
    if isinstance(error, FileNotFoundError):
        return CollectionError(f"{path} is missing. Check the path.")
    return CollectionError(
        f"{path}{place}: cannot be read further ({error}). The file may be truncated; copy it again."
    )


def numbered_lines(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield the number, counted from 1, and the content of every line that is not blank."""
    for number, line in enumerate(lines, start=1):
        content = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        if content.strip():
            yield number, content


def decode_line(line: bytes) -> str:
    """Return the text of a line.

    Raises:
        LineError: the line is not UTF-8.
    """
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        if line.startswith(_UTF16_MARKS):
            raise LineError("the file is UTF-16. Save it as UTF-8.") from error
        raise LineError(f"not UTF-8 ({error.reason}). Convert the file, for example with iconv.") from error


def parse_object(line: bytes) -> dict[str, Any]:
    """Return the JSON object on a line.

    Raises:
        LineError: the line is not UTF-8, not JSON, or not an object.
    """
    text = decode_line(line.removeprefix(codecs.BOM_UTF8))
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        if text.lstrip().startswith("["):
            raise LineError(_ARRAY) from error
        raise LineError(
            f"not valid JSON ({error}). Every line needs one whole JSON object; the file may be truncated."
        ) from error
    if isinstance(record, list):
        raise LineError(_ARRAY)
    if not isinstance(record, dict):
        raise LineError(f"expected a JSON object, found {type(record).__name__}.")
    return record


_ARRAY = (
    "expected a JSON object, found the beginning of a JSON array. Write one object on each "
    "line instead, for example with: jq -c '.[]' FILE"
)
