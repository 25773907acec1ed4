"""Where an index lies: connections to LanceDB with bounded caches, and its files on a local disk."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import lance
import lancedb

from routerretriever.index.schema import metadata_columns

TABLE = "documents"

INDEX_CACHE_MIB = 1024
"""Most memory for parts of indexes, for each opened index; Lance's own bound is 6 GiB. A million vectors of 384
dimensions take some 60 MiB as IVF_RQ and 600 as HNSW. What does not fit is read again by every search, which then takes
seconds. The environment variable ``ROUTERRETRIEVER_INDEX_CACHE_MIB`` overrides it."""

METADATA_CACHE_MIB = 128
"""Most memory for manifests and file footers, for each opened index; Lance's own bound is 1 GiB."""

WRITER_CACHE_MIB = 128
"""The same for writing and upkeep, which read an index once."""

LOCAL_INTERVAL = timedelta(0)
"""How old a reader's view may be on a local disk: it looks for a newer version at every read, which costs 0.1 ms."""

REMOTE_INTERVAL = timedelta(seconds=2)
"""The same for an object store, where looking is a request."""


def connect(uri: str) -> Any:
    """A LanceDB connection that sees what other processes commit, with bounded caches of its own."""
    session = lancedb.Session(WRITER_CACHE_MIB << 20, METADATA_CACHE_MIB << 20)
    return lancedb.connect(uri, session=session, read_consistency_interval=_interval(uri))


def _interval(uri: str) -> timedelta:
    return LOCAL_INTERVAL if local_folder(uri) is not None else REMOTE_INTERVAL


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One version of an index.

    Attributes:
        dataset: of Lance.
        metadata: names of the metadata columns; kept, because asking for the schema takes a while.
    """

    dataset: Any
    metadata: tuple[str, ...]


class View:
    """The newest version of an index, for searching: Lance itself, which takes 3 ms less a query than LanceDB."""

    def __init__(self, uri: str) -> None:
        self._uri, self._interval = uri, _interval(uri).total_seconds()
        self._snapshot: Snapshot | None = None  # opened by the first search: who only writes needs none
        self._looked = -math.inf

    def latest(self) -> Snapshot:
        """The newest version; on an object store, one that was the newest within :data:`REMOTE_INTERVAL`."""
        now = time.monotonic()
        if self._snapshot is None or now - self._looked >= self._interval:
            self._looked = now  # before looking: who writes meanwhile wants another look
            self._snapshot = _open(self._uri) if self._snapshot is None else _newest(self._snapshot)
        return self._snapshot

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
    return _snapshot(dataset)


def _newest(known: Snapshot) -> Snapshot:
    newest = known.dataset.latest_version
    return known if newest == known.dataset.version else _snapshot(known.dataset.checkout_version(newest))


def _snapshot(dataset: Any) -> Snapshot:
    return Snapshot(dataset, tuple(metadata_columns(dataset.schema)))


def located(uri: str | Path) -> str:
    """A URI as it is, a path from the root: workers of a cluster stand in folders of their own."""
    return str(uri) if "://" in str(uri) else str(Path(uri).absolute())


def dataset_uri(uri: str) -> str:
    """The Lance data set behind an index."""
    return f"{uri.rstrip('/')}/{TABLE}.lance"


def exists(uri: str) -> bool:
    """Whether there is an index at ``uri``."""
    folder = local_folder(uri)
    if folder is not None and not folder.is_dir():
        return False
    return TABLE in lancedb.connect(uri).list_tables().tables


def local_folder(uri: str) -> Path | None:
    """The folder of an index on a local disk; ``None`` for an object store."""
    if "://" not in uri:
        return Path(uri)
    return Path(uri.removeprefix("file://")) if uri.startswith("file://") else None


def files(folder: Path) -> Iterator[Path]:
    """All files below a folder; those that vanish meanwhile are left out."""
    for parent, _, names in os.walk(folder):
        yield from (Path(parent, name) for name in names)


def bytes_on_disk(uri: str) -> int | None:
    """Bytes of all files of an index, old versions too; ``None`` for an object store."""
    folder = local_folder(uri)
    if folder is None:
        return None
    total = 0
    for path in files(folder):
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # a writer's temporary file
            continue
    return total
