"""Whether a build was committed before it was killed."""

from __future__ import annotations

from typing import Any

import lance

from routerretriever.index.build.chunk_result import read_result
from routerretriever.index.build.folder import Folder
from routerretriever.index.build.lock import BuildLock


def is_committed(dataset: Any, lock: BuildLock, records: Folder) -> bool:
    """Return whether a version since the lock was taken is the commit of its build.

    Args:
        dataset: the newest version.
        lock: names the build.
        records: of the build's chunks.
    """
    kept = sorted(entry["version"] for entry in dataset.versions())
    since = [version for version in kept if version > lock.version]
    if any(_transaction_id(dataset, version) == lock.build for version in since):
        return True

    # Versions that were cleaned away cannot be asked. What one of them committed is in the
    # oldest that is kept, unless it was compacted and its files are gone: then their chunks
    # are done again, and found unchanged.
    is_whole = not since or since[0] == lock.version + 1
    return not is_whole and _holds_files_of(records, lance.dataset(dataset.uri, version=since[0]))


def _transaction_id(dataset: Any, version: int) -> str | None:
    """Return the id of the transaction that made a version, if it can be read."""
    try:
        transaction = dataset.read_transaction(version)
    except TypeError:  # pylance 14.0 cannot name one that rewrote an index, which no build does
        return None
    return None if transaction is None else str(transaction.uuid)


def _holds_files_of(records: Folder, dataset: Any) -> bool:
    files = {file.path for part in dataset.get_fragments() for file in part.data_files()}
    for name in records.names():
        found = read_result(records, name)
        if found is not None and found[0].fragments:
            return files.issuperset(found[0].data_files())
    return False
