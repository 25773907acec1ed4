"""Rows of the index that a build replaces, and those that its source no longer has."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from routerretriever.index.build.all_results import ChunkResults, Digests
from routerretriever.index.build.chunk_result import id_digest
from routerretriever.index.commit import DroppedKeys, fragment_of
from routerretriever.index.schema import PLACE_COLUMNS, document_key, holds_passages, quoted

_BATCH_ROWS = 8192

_Rows = tuple[pa.Array, Digests, npt.NDArray[np.int64], npt.NDArray[np.bool_]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsToReplace:
    """Rows of the index that a new version drops.

    Attributes:
        keys: of rows that are replaced or, if asked, gone from the source.
        replaced: number of documents that are replaced.
        gone: number of documents that are gone from the source, dropped or not.
        lost: digests of documents that were found unchanged and have since left the index.
    """

    keys: DroppedKeys
    replaced: int
    gone: int
    lost: frozenset[int]


NOTHING_TO_REPLACE = RowsToReplace(keys={}, replaced=0, gone=0, lost=frozenset())


def rows_to_replace(dataset: Any, results: ChunkResults, collection: str, *, prune: bool) -> RowsToReplace:
    """Compare a version of the index with all that was read.

    Args:
        dataset: the newest version.
        results: of all chunks.
        collection: that was read.
        prune: whether rows that are gone from the source are dropped.
    """
    keys: dict[int, list[str]] = defaultdict(list)
    replaced = gone = 0
    lost: set[int] = set()
    for part in results.id_parts():
        present = np.zeros(len(part.digests), np.bool_)
        for ids, digests, fragments, first in _rows_of(dataset, collection):
            at = part.find(ids, digests)
            known = at >= 0
            present[at[known]] = True

            renewed = known.copy()
            renewed[known] = part.encoded[at[known]]
            left = part.holds(digests) & ~known
            replaced += int((renewed & first).sum())
            gone += int((left & first).sum())

            dropped = renewed | left if prune else renewed
            for row in np.flatnonzero(dropped).tolist():
                keys[int(fragments[row])].append(document_key(collection, str(ids[row])))
        lost.update(part.digests[~present & ~part.encoded].tolist())
    return RowsToReplace(keys=keys, replaced=replaced, gone=gone, lost=frozenset(lost))


def _rows_of(dataset: Any, collection: str) -> Iterator[_Rows]:
    """Yield ids of the collection's rows, digests, fragments, and which is the first of its document."""
    place = PLACE_COLUMNS[0]
    several = holds_passages(dataset.schema)
    scanner = dataset.scanner(
        columns=["id", place] if several else ["id"],
        filter=f"collection = {quoted(collection)}",
        with_row_address=True,
        batch_size=_BATCH_ROWS,
    )
    for batch in scanner.to_batches():
        ids = batch["id"].cast(pa.large_string())
        digests = np.fromiter(map(id_digest, ids.to_pylist()), np.uint64, len(ids))
        first = np.ones(len(ids), np.bool_)
        if several:
            first = batch[place].fill_null(0).to_numpy() == 0
        yield ids, digests, fragment_of(batch["_rowaddr"].to_numpy()), first
