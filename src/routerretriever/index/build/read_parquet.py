"""Rows of a Parquet shard as records."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from routerretriever.index.build.chunks import Chunk
from routerretriever.index.build.paths import open_path

_BATCH_ROWS = 1024
_PANDAS_INDEX = re.compile(r"__index_level_\d+__")
"""Columns in which pandas keeps the numbers of its rows."""


def parquet_records(chunk: Chunk) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the line, counted from 1, and the record of every row of a chunk.

    Raises:
        OSError, ArrowInvalid: the shard cannot be read to the end of the chunk.
    """
    system, path = open_path(chunk.shard)
    with pq.ParquetFile(system.open_input_file(path)) as file:
        groups, first = _row_groups(file, chunk)
        columns = [n for n in file.schema_arrow.names if not _PANDAS_INDEX.fullmatch(n)]
        batches = file.iter_batches(_BATCH_ROWS, row_groups=groups, columns=columns)
        for batch in batches:
            for row, record in enumerate(_in_microseconds(batch).to_pylist(), start=first):
                if chunk.start <= row < chunk.stop:
                    yield row + 1, record
            first += batch.num_rows


def _row_groups(file: pq.ParquetFile, chunk: Chunk) -> tuple[Sequence[int], int]:
    """Return the row groups with rows of a chunk, and the number of the first's first row."""
    groups: list[int] = []
    first = row = 0
    for number in range(file.metadata.num_row_groups):
        count = file.metadata.row_group(number).num_rows
        if row < chunk.stop and row + count > chunk.start:
            if not groups:
                first = row
            groups.append(number)
        row += count
    return groups, first


def _in_microseconds(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Shorten times in nanoseconds, which Python's own types cannot hold."""
    for number, column in enumerate(batch.schema):
        shorter = None
        if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
            shorter = pa.timestamp("us", column.type.tz)
        elif pa.types.is_time64(column.type) and column.type.unit == "ns":
            shorter = pa.time64("us")
        if shorter is not None:
            values = batch.column(number).cast(shorter, safe=False)
            batch = batch.set_column(number, column.name, values)
    return batch
