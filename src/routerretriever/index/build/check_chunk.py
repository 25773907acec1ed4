"""Which rows of a chunk the index can hold."""

from __future__ import annotations

from routerretriever.errors import CollectionError
from routerretriever.index.build.chunks import Chunk, Problem
from routerretriever.index.build.read_chunk import SAMPLED_ROWS, Row, read_chunk
from routerretriever.index.check import DocumentCheck

ABOUT_NEW_FIELDS = (
    f"Fields are looked for in the first {SAMPLED_ROWS} rows of every shard: move a row that "
    "has it there, or leave such rows out with --on-error skip."
)


def checked_rows(chunk: Chunk, check: DocumentCheck) -> tuple[list[Row], list[Problem]]:
    """Return the documents of a chunk that can be stored, and what is wrong with the other lines."""
    rows: dict[str, Row] = {}
    problems: list[Problem] = []
    for row in read_chunk(chunk):
        if isinstance(row, Problem):
            problems.append(row)
            continue
        reason = _fault(row, chunk, check, rows.get(row.document.id))
        if reason is None:
            rows[row.document.id] = row
        else:
            problems.append(Problem(chunk.where(row.line), reason))
    return list(rows.values()), problems


def _fault(row: Row, chunk: Chunk, check: DocumentCheck, earlier: Row | None) -> str | None:
    if row.line in chunk.left_out:
        return f"the id '{row.document.id}' is on an earlier line too."
    if earlier is not None:
        return f"the id '{row.document.id}' is on line {earlier.line} too. Make ids unique."
    where = chunk.where(row.line)
    try:
        check.check(row.document, where)
    except CollectionError as error:
        return str(error).removeprefix(f"{where}: ")
    return None
