"""The rows of a chunk as documents."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pyarrow import fs

from routerretriever.data.document import Document, as_document, left_out_fields
from routerretriever.data.jsonl import LineError, parse_object
from routerretriever.data.names import compression_of
from routerretriever.errors import CollectionError
from routerretriever.index.build.chunks import Chunk, Problem
from routerretriever.index.build.paths import open_path, suffix_of
from routerretriever.index.build.read_parquet import parquet_records

SAMPLED_ROWS = 100
"""Rows of every shard in which metadata fields are looked for."""

_READ_BYTES = 1 << 16  # of a truncated shard at most this much is lost before the cut


@dataclass(frozen=True, slots=True)
class Row:
    """A document.

    Attributes:
        line: where it is in the shard, counted from 1.
        document: the document itself.
        left_out: fields that hold lists or other values that are not stored.
    """

    line: int
    document: Document
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Record:
    """One line: its content, or what is wrong with it."""

    line: int
    content: dict[str, Any] | str
    raw: str = ""


def read_chunk(chunk: Chunk) -> Iterator[Row | Problem]:
    """Yield the rows of a chunk in order; a line that cannot be understood is a problem.

    Blank lines are skipped.
    """
    if chunk.documents is not None:
        for number, document in enumerate(chunk.documents, start=chunk.start + 1):
            yield Row(number, document)
        return

    is_parquet = suffix_of(chunk.shard) == ".parquet"
    for record in _parquet_lines(chunk) if is_parquet else _jsonl_lines(chunk):
        where = chunk.where(record.line)
        if isinstance(record.content, str):
            yield Problem(where, record.content, record.raw)
            continue
        try:
            document = as_document(record.content, where)
        except CollectionError as error:
            yield Problem(where, str(error).removeprefix(f"{where}: "), record.raw)
        else:
            yield Row(record.line, document, tuple(left_out_fields(record.content)))


def sampled_documents(chunks: Sequence[Chunk]) -> Iterator[Document]:
    """Yield the documents in the first rows of every shard, and all that are in memory."""
    for chunk in chunks:
        in_memory = chunk.documents is not None
        if chunk.start > 0 and not in_memory:
            continue
        for number, row in enumerate(read_chunk(chunk)):
            if number >= SAMPLED_ROWS and not in_memory:
                break
            if isinstance(row, Row):
                yield row.document


def _jsonl_lines(chunk: Chunk) -> Iterator[_Record]:
    system, path = open_path(chunk.shard)
    line = chunk.start
    try:
        for line, raw in enumerate(_raw_lines(system, path, chunk), start=chunk.start + 1):
            if raw.strip():
                yield _parsed(line, raw)
    except (OSError, EOFError) as error:
        # A truncated shard; the lines that are whole were read before.
        yield _Record(line, f"cannot be read further ({error}). The file may be truncated.")


def _raw_lines(system: fs.FileSystem, path: str, chunk: Chunk) -> Iterator[bytes]:
    compression = compression_of(path)
    if compression is not None:
        source = system.open_input_stream(path, compression=compression)
        skipped = chunk.start
    else:
        source = system.open_input_file(path)
        source.seek(chunk.offset)
        skipped = 0
    with io.BufferedReader(source, _READ_BYTES) as stream:
        for number in range(skipped + chunk.stop - chunk.start):
            raw = stream.readline()
            if not raw:
                return
            if number >= skipped:
                yield raw


def _parsed(line: int, raw: bytes) -> _Record:
    shown = raw.decode(errors="replace").rstrip("\r\n")
    try:
        return _Record(line, parse_object(raw), shown)
    except LineError as error:
        return _Record(line, str(error), shown)


def _parquet_lines(chunk: Chunk) -> Iterator[_Record]:
    line = chunk.start
    try:
        for line, content in parquet_records(chunk):
            yield _Record(line, content)
    except (OSError, ValueError, OverflowError) as error:  # ArrowInvalid is a ValueError
        reason = f"cannot be read further ({error}). The file may be truncated, or hold a date out of range."
        yield _Record(line, reason)
