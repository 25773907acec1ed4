"""Where an index is: its data set with bounded caches, and files on a local disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import lance

TABLE = "documents"

METADATA_CACHE_MIB = 128
"""Most memory for manifests and file footers, in MiB for each opened index; Lance's own bound
is 1 GiB."""

WRITER_CACHE_MIB = 128
"""Most memory for parts of indexes while writing and maintaining, which read an index once."""

LOCAL_INTERVAL = timedelta(0)
"""How old what a reader sees may be on a local disk: it looks for a newer version at every
read, which costs 0.1 ms."""

REMOTE_INTERVAL = timedelta(seconds=2)
"""The same for an object store, where looking is a request."""


def writer_session() -> Any:
    """Return bounded caches for data sets that are opened to write and maintain one index."""
    return lance.Session(  # type: ignore[attr-defined]  # documented, but not among its names
        index_cache_size_bytes=WRITER_CACHE_MIB << 20,
        metadata_cache_size_bytes=METADATA_CACHE_MIB << 20,
    )


def consistency_interval(uri: str) -> timedelta:
    """Return how old what a reader of this index sees may be."""
    return LOCAL_INTERVAL if local_folder(uri) is not None else REMOTE_INTERVAL


def located(uri: str | Path) -> str:
    """Return a URI as it is, and a path from the root: workers run in folders of their own."""
    return str(uri) if "://" in str(uri) else str(Path(uri).absolute())


def dataset_uri(uri: str) -> str:
    """Return the URI of the Lance data set of an index."""
    return f"{uri.rstrip('/')}/{TABLE}.lance"


def exists(uri: str) -> bool:
    """Return whether there is an index at ``uri``."""
    folder = local_folder(uri)
    if folder is not None:
        return Path(dataset_uri(str(folder))).is_dir()
    try:
        lance.dataset(dataset_uri(uri))
    except ValueError:  # so Lance says that there is nothing
        return False
    return True


def local_folder(uri: str) -> Path | None:
    """Return the folder of an index on a local disk; ``None`` for an object store."""
    if "://" not in uri:
        return Path(uri)
    return Path(uri.removeprefix("file://")) if uri.startswith("file://") else None


def files(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder; files that vanish meanwhile are left out."""
    for parent, _, names in os.walk(folder):
        yield from (Path(parent, name) for name in names)


def bytes_on_disk(uri: str) -> int | None:
    """Return the bytes of all files of an index, old versions too; ``None`` for an object store."""
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
