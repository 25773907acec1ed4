"""Read CSV and TSV files as spreadsheets write them, without losing a cell.

CSV cells may be quoted and may hold line breaks; commas, semicolons and tabs are told
apart by the line of column names, or by a first line ``sep=;``. In TSV a line is a row,
and only a cell that is quoted as a whole is unquoted.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from routerretriever.data.jsonl import read_bytes
from routerretriever.errors import CollectionError

_DELIMITERS = (",", ";", "\t")
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\r?\n')
_QUOTED_CELL = re.compile(r'"((?:[^"]|"")*)"')
_LONGEST_CELL = 2**31 - 1  # the largest that csv takes on every system

_Row = tuple[int, list[str]]  # the line it begins on, and its cells


def read_csv(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield "file, line N" and column → cell of every row that is not blank.

    Raises:
        CollectionError: the file cannot be read, or names the line that is no whole row.
    """
    text = _decoded(path)
    skipped = 0
    delimiter = ""
    if separator := _SEPARATOR_LINE.match(text):
        delimiter, skipped = separator[1], 1
        text = text[separator.end() :]
    delimiter = delimiter or _likely_delimiter(text)
    return _records(path, _csv_rows(path, text, delimiter, skipped))


def read_tsv(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield "file, line N" and column → cell of every line that is not blank.

    Raises:
        CollectionError: the file cannot be read, or names the line that is no whole row.
    """
    lines = io.StringIO(_decoded(path), newline=None)
    rows = ((n, line.rstrip("\n").split("\t")) for n, line in enumerate(lines, start=1))
    return _records(path, ((n, [_unquoted(cell) for cell in cells]) for n, cells in rows))


def _decoded(path: Path) -> str:
    content = read_bytes(path)
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    encoding = "utf-16" if is_utf16 else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise CollectionError(
            f"{path}, line {line}: neither UTF-8 nor UTF-16. Save the file as "
            "'CSV UTF-8', or convert it, for example with: iconv -f CP1252 -t UTF-8"
        ) from error


def _likely_delimiter(text: str) -> str:
    header = text.lstrip("\r\n").partition("\n")[0]
    return max(_DELIMITERS, key=header.count)


def _csv_rows(path: Path, text: str, delimiter: str, skipped: int) -> list[_Row]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[_Row] = []
    begins = skipped + 1
    limit = csv.field_size_limit(_LONGEST_CELL)
    try:
        for cells in reader:
            rows.append((begins, cells))
            begins = skipped + reader.line_num + 1
    except csv.Error as error:
        raise CollectionError(
            f"{path}, line {begins}: the row that begins here is not valid CSV ({error}). "
            'Check its quotes: quote a whole cell, and write "" for a quote inside it.'
        ) from error
    finally:
        csv.field_size_limit(limit)
    return rows


def _unquoted(cell: str) -> str:
    quoted = _QUOTED_CELL.fullmatch(cell)
    return quoted[1].replace('""', '"') if quoted else cell


def _records(path: Path, rows: Iterable[_Row]) -> Iterator[tuple[str, dict[str, str]]]:
    names: list[str] = []
    for line, cells in rows:
        if not any(cell.strip() for cell in cells):
            continue
        where = f"{path}, line {line}"
        if not names:
            names = _column_names(cells, where)
            continue
        if len(cells) > len(names):
            raise CollectionError(
                f"{where}: the row has {len(cells)} cells, and there are {len(names)} "
                "columns. Put quotes around a cell that holds the separator."
            )
        missing = [""] * (len(names) - len(cells))
        yield where, dict(zip(names, [*cells, *missing], strict=True))


def _column_names(cells: list[str], where: str) -> list[str]:
    """Return the names of the columns in lower case."""
    names = [cell.strip().casefold() for cell in cells]
    doubled = next((name for name in names if name and names.count(name) > 1), None)
    if doubled is not None:
        raise CollectionError(f"{where}: two columns are called '{doubled}'. Rename one.")
    return names
