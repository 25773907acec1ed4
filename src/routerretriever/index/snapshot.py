"""The version of an index that searches read, with bounded caches."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from typing import Any

import lance

from routerretriever.index.connection import (
    METADATA_CACHE_MIB,
    consistency_interval,
    dataset_uri,
)
from routerretriever.index.schema import check_same_base, holds_passages, metadata_columns, recorded_info
from routerretriever.words.text_index import has_text_index

INDEX_CACHE_MIB = 1024
"""Most memory for parts of vector and text indexes, in MiB for each opened index.

Lance's own bound is 6 GiB. A million vectors of 384 dimensions take some 60 MiB as IVF_RQ
and 600 MiB as HNSW. What does not fit is read again by every search, which then takes
seconds. The environment variable ``ROUTERRETRIEVER_INDEX_CACHE_MIB`` overrides it.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One version of an index.

    Attributes:
        dataset: of Lance.
        metadata: names of the metadata columns; kept, because asking for the schema is slow.
        has_text: whether it can be searched by words.
        has_passages: whether a document is several rows.
    """

    dataset: Any
    metadata: tuple[str, ...]
    has_text: bool
    has_passages: bool


class LatestSnapshot:
    """The newest version of an index, for searching.

    What is read for searches has caches of its own, which writing and maintaining do not displace.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._interval = consistency_interval(uri).total_seconds()
        self._snapshot: Snapshot | None = None  # opened when it is first needed
        self._looked = -math.inf

    def get(self) -> Snapshot:
        """Return the newest version.

        On an object store it is one that was the newest at most
        :data:`~routerretriever.index.connection.REMOTE_INTERVAL` ago.

        Raises:
            FingerprintError: the index was migrated to another base since it was opened.
        """
        now = time.monotonic()
        if self._snapshot is None:
            self._looked = now
            self._snapshot = _open(self._uri)
        elif now - self._looked >= self._interval:
            self._looked = now  # before looking: a write during the look asks for another one
            self._snapshot = self._next(self._snapshot)
        return self._snapshot

    def _next(self, known: Snapshot) -> Snapshot:
        newest = _newest(known)
        if newest is not known:
            fingerprint = recorded_info(known.dataset.schema)["fingerprint"]
            check_same_base(newest.dataset.schema, fingerprint, self._uri)
        return newest

    def expire(self) -> None:
        """Look for a newer version at the next search: this process has made one."""
        self._looked = -math.inf


def _open(uri: str) -> Snapshot:
    index_cache = int(os.environ.get("ROUTERRETRIEVER_INDEX_CACHE_MIB", INDEX_CACHE_MIB))
    dataset = lance.dataset(
        dataset_uri(uri),
        index_cache_size_bytes=index_cache << 20,
        metadata_cache_size_bytes=METADATA_CACHE_MIB << 20,
    )
    return _snapshot_of(dataset)


def _newest(known: Snapshot) -> Snapshot:
    newest = known.dataset.latest_version
    if newest == known.dataset.version:
        return known
    return _snapshot_of(known.dataset.checkout_version(newest))


def _snapshot_of(dataset: Any) -> Snapshot:
    return Snapshot(
        dataset=dataset,
        metadata=tuple(metadata_columns(dataset.schema)),
        has_text=has_text_index(dataset),
        has_passages=holds_passages(dataset.schema) and _any_row(dataset, "_passage = 1"),
    )


def _any_row(dataset: Any, where: str) -> bool:
    found = dataset.scanner(columns=["_passage"], filter=where, limit=1).to_table()
    return bool(found.num_rows)
