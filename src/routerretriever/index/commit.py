"""Writing rows: data files first, then one version that names them and drops what they replace.

All documents are written here, those of a single request and those of a build on a cluster.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import lance
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from routerretriever.index.conflicts import retrying_conflicts
from routerretriever.index.connection import dataset_uri, local_folder
from routerretriever.index.schema import key_condition
from routerretriever.storage.locks import changing

DroppedKeys = Mapping[int, Sequence[str]]
"""Fragment id → keys of the rows that a commit drops from it."""

_FRAGMENT_BITS = np.uint64(32)  # a row's address is its fragment's id, then its place there


@contextmanager
def committing(uri: str) -> Iterator[None]:
    """Let no other process or thread commit documents to an index on a local disk meanwhile.

    An object store has no such lock: there :func:`commit_rows` looks afterwards.

    Raises:
        StorageError: the lock cannot be written, or another holds it for too long.
    """
    folder = local_folder(dataset_uri(uri))
    with nullcontext() if folder is None else changing(folder):
        yield


def write_fragments(dataset: Any, rows: pa.Table) -> list[lance.FragmentMetadata]:
    """Write rows as data files that no reader sees before they are committed."""
    written: list[lance.FragmentMetadata] = lance.fragment.write_fragments(rows, dataset, mode="append")
    return written


def rows_with_keys(dataset: Any, keys: list[str]) -> DroppedKeys:
    """Return where the rows with these keys are."""
    scanner = dataset.scanner(columns=["key"], filter=key_condition(keys), with_row_address=True)
    found: dict[int, list[str]] = defaultdict(list)
    for batch in scanner.to_batches():
        fragments = fragment_of(batch["_rowaddr"].to_numpy()).tolist()
        for key, fragment in zip(batch["key"].to_pylist(), fragments, strict=True):
            found[fragment].append(key)
    return found


def fragment_of(addresses: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Return the fragment ids (n,) of rows with these addresses (n,)."""
    return (addresses.astype(np.uint64) >> _FRAGMENT_BITS).astype(np.int64)


def commit_rows(
    dataset: Any,
    fragments: Sequence[lance.FragmentMetadata],
    dropped: DroppedKeys,
    *,
    name: str | None = None,
    before: Callable[[], object] | None = None,
) -> None:
    """Add fragments and drop rows, as one version.

    Call it within :func:`committing`.

    Args:
        dataset: the version that ``dropped`` was found in.
        fragments: from :func:`write_fragments`.
        dropped: rows that are replaced or deleted.
        name: of the transaction.
        before: called when all files are written that the new version will name.

    Raises:
        CommitConflictError: another writer changed the same fragments; nothing has changed.
        OSError, RuntimeError: the index cannot be written.
    """
    operation = _operation(dataset, fragments, dropped)
    if before is not None:
        before()
    transaction = lance.Transaction(
        read_version=dataset.version,
        operation=operation,
        uuid=name or str(uuid.uuid4()),
    )
    committed = lance.LanceDataset.commit(dataset, transaction)

    # Lance accepts a commit if others have only added rows since, whatever their keys.
    if fragments and committed.version > dataset.version + 1:
        _drop_doubled_rows(dataset, committed, fragments)


def _operation(dataset: Any, fragments: Sequence[lance.FragmentMetadata], dropped: DroppedKeys) -> Any:
    removed, updated = [], []
    for number, keys in dropped.items():
        kept = dataset.get_fragment(number).delete(key_condition(list(keys)))
        if kept is None:
            removed.append(number)
        else:
            updated.append(kept)
    return lance.LanceOperation.Update(
        removed_fragment_ids=removed,
        updated_fragments=updated,
        new_fragments=list(fragments),
    )


def _drop_doubled_rows(before: Any, committed: Any, fragments: Sequence[lance.FragmentMetadata]) -> None:
    """Drop rows that others added while we wrote rows with the same keys; ours came later.

    Args:
        before: the version that our commit was made for.
        committed: the version that our commit made.
        fragments: ours.
    """
    known = {fragment.fragment_id for fragment in before.get_fragments()}
    our_files = {file.path for fragment in fragments for file in fragment.files}
    ours: list[Any] = []
    others: list[Any] = []
    for fragment in committed.get_fragments():
        if fragment.fragment_id in known:
            continue
        is_ours = any(file.path in our_files for file in fragment.data_files())
        (ours if is_ours else others).append(fragment)

    our_keys = committed.scanner(columns=["key"], fragments=ours).to_table()["key"]
    doubled: dict[int, list[str]] = {}
    for fragment in others:
        keys = fragment.to_table(columns=["key"])["key"]
        twice = keys.filter(pc.is_in(keys, value_set=our_keys.combine_chunks()))
        if len(twice):
            doubled[fragment.fragment_id] = twice.to_pylist()

    def drop() -> None:
        newest = lance.dataset(before.uri)
        left = {fragment.fragment_id for fragment in newest.get_fragments()}
        commit_rows(newest, [], {number: doubled[number] for number in doubled.keys() & left})

    if doubled:
        retrying_conflicts(drop)
