"""Documents of one table, encoded by another base into a second one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import lance
import pyarrow as pa

from routerretriever.data.document import Document
from routerretriever.index.blocks import blocks
from routerretriever.index.columns import add_missing_columns
from routerretriever.index.commit import commit_rows, rows_with_keys, write_fragments
from routerretriever.index.encoder import Encoder
from routerretriever.index.lance_view import record_of
from routerretriever.index.rows import Cut, document_rows, part_blocks
from routerretriever.index.schema import (
    FIRST_ROWS,
    PLACE_COLUMNS,
    SHOWN_COLUMNS,
    document_key,
    holds_passages,
    key_condition,
    metadata_columns,
    metadata_types,
)
from routerretriever.index.view import Record, document_of
from routerretriever.progress import Progress

BLOCK_DOCUMENTS = 512
"""Documents that are encoded and committed at once: what a kill can cost."""

_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Stored:
    """A document of an index, with the digest of the content that it was written from."""

    collection: str
    document: Document
    digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Differences:
    """What one table lacks of another, by keys of documents.

    Attributes:
        missing: documents that it has not, or with other content.
        gone: documents that only it has.
    """

    missing: list[str]
    gone: list[str]


def differences(source: Any, target: Any) -> Differences:
    """Compare two Lance data sets by the digests of their documents."""
    wanted, present = _digests(source), _digests(target)
    return Differences(
        missing=[key for key, digest in wanted.items() if present.get(key) != digest],
        gone=[key for key in present if key not in wanted],
    )


def catch_up(source: Any, target: str, model: Encoder, precision: str, progress: Progress) -> int:
    """Give a table the documents of another, encoded by a model, and return how many were encoded.

    Args:
        source: a version of the Lance data set that is copied.
        target: URI of the other; it has the model's base, and nobody else writes there.
        model: encodes the documents.
        precision: in which.
        progress: where to report.

    Raises:
        OSError, RuntimeError: the table cannot be written; blocks before that are kept.
    """
    add_missing_columns(target, metadata_types(source.schema))
    differ = differences(source, lance.dataset(target))
    for keys in blocks(differ.gone, _ROWS):
        newest = lance.dataset(target)
        commit_rows(newest, [], rows_with_keys(newest, keys))
    cut = model.cut if holds_passages(lance.dataset(target).schema) else None
    with progress.task("encode for the new base", len(differ.missing)) as task:
        for keys in blocks(differ.missing, BLOCK_DOCUMENTS):
            _write(target, read_documents(source, keys), model, cut, precision)
            task.advance(len(keys))
    return len(differ.missing)


def read_documents(dataset: Any, keys: Sequence[str]) -> list[Stored]:
    """Return documents of a table, put together from their passages."""
    metadata = metadata_columns(dataset.schema)
    columns = [*SHOWN_COLUMNS, "hash", *metadata]
    if holds_passages(dataset.schema):
        columns += PLACE_COLUMNS
    records: dict[str, list[Record]] = defaultdict(list)
    digests: dict[str, bytes] = {}
    for row in dataset.to_table(columns=columns, filter=key_condition(list(keys))).to_pylist():
        records[row["key"]].append(record_of(row, metadata))
        digests[row["key"]] = row["hash"]
    found = []
    for key in sorted(records):
        found.append(Stored(records[key][0].collection, document_of(records[key]), digests[key]))
    return found


def _digests(dataset: Any) -> dict[str, bytes]:
    where = FIRST_ROWS if holds_passages(dataset.schema) else None
    found = dataset.to_table(columns=["key", "hash"], filter=where)
    return dict(zip(found["key"].to_pylist(), found["hash"].to_pylist(), strict=True))


def _write(target: str, stored: Sequence[Stored], model: Encoder, cut: Cut | None, precision: str) -> None:
    dataset = lance.dataset(target)
    fragments = []
    for rows in _encoded_rows(stored, model, cut, precision, dataset.schema):
        fragments += write_fragments(dataset, rows)
    keys = [document_key(item.collection, item.document.id) for item in stored]
    commit_rows(dataset, fragments, rows_with_keys(dataset, keys))


def _encoded_rows(
    stored: Sequence[Stored], model: Encoder, cut: Cut | None, precision: str, schema: pa.Schema
) -> Iterator[pa.Table]:
    by_collection: dict[str, list[Stored]] = defaultdict(list)
    for item in stored:
        by_collection[item.collection].append(item)
    place = schema.get_field_index("hash")
    for collection, items in by_collection.items():
        digests = {item.document.id: item.digest for item in items}
        for block in part_blocks([item.document for item in items], cut, _ROWS):
            vectors = model.embed_texts([part.passage.content for part in block], precision=precision)
            rows = document_rows(block, collection, vectors, schema)
            # Sections that the table does not keep are in the digest, so it is not made again.
            column = pa.array([digests[part.document.id] for part in block], schema.field("hash").type)
            yield rows.set_column(place, schema.field("hash"), column)
