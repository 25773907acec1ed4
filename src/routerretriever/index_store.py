"""Where an index lies: connections to LanceDB with bounded caches, and its files on a local disk."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import lancedb

TABLE = "documents"
_CONFLICT_RETRIES = 6

INDEX_CACHE_MIB = 512
"""Most memory for parts of indexes, for each opened index; LanceDB's own bound is 6 GiB. A million vectors of 384
dimensions take some 60 MiB as IVF_RQ, and what does not fit is read again. The environment variable
``ROUTERRETRIEVER_INDEX_CACHE_MIB`` overrides it."""

METADATA_CACHE_MIB = 128
"""Most memory for manifests and file footers, for each opened index; LanceDB's own bound is 1 GiB."""

LOCAL_INTERVAL = timedelta(0)
"""How old a reader's view may be on a local disk: it looks for a newer version at every read, which costs 0.1 ms."""

REMOTE_INTERVAL = timedelta(seconds=2)
"""The same for an object store, where looking is a request."""


def connect(uri: str) -> Any:
    """A LanceDB connection that sees what other processes commit, with bounded caches of its own."""
    index_cache = int(os.environ.get("ROUTERRETRIEVER_INDEX_CACHE_MIB", INDEX_CACHE_MIB))
    session = lancedb.Session(index_cache << 20, METADATA_CACHE_MIB << 20)
    interval = LOCAL_INTERVAL if local_folder(uri) is not None else REMOTE_INTERVAL
    return lancedb.connect(uri, session=session, read_consistency_interval=interval)


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


def sync(path: Path) -> None:
    """Write a file, or the names in a folder, through to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_conflict(error: Exception) -> bool:
    """Whether Lance refused a commit because another came between."""
    return "conflict" in str(error).lower()


def retrying(work: Callable[[], Any]) -> None:
    """Run; again if another writer came between, which Lance notices and then leaves everything as it was."""
    for attempt in range(_CONFLICT_RETRIES):
        try:
            work()
        except (OSError, RuntimeError) as error:
            if not is_conflict(error) or attempt + 1 == _CONFLICT_RETRIES:
                raise
            time.sleep(0.1 * 2**attempt)
        else:
            return
