"""All pieces are done: find ids that stand twice and rows that are stale, and commit one new version.

Ids are found by 64-bit digests, a share of them at a time, so that memory does not grow with the collection.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lance
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from routerretriever.errors import StorageError
from routerretriever.index.build.records import Folder
from routerretriever.index.build.shards import Piece
from routerretriever.index.build.worker import Ids, Job, Record, id_digest, read_record
from routerretriever.index.schema import document_key, quoted

SHARE_IDS = 1 << 22
"""Ids compared at once; some 300 MB where an id has 20 bytes."""

_Digests = npt.NDArray[np.uint64]
_Place = tuple[int, int]  # number of a piece, line


@dataclass(frozen=True, slots=True)
class Repeated:
    """A line whose id stands on an earlier line of the source as well."""

    piece: Piece
    line: int
    earlier: str


@dataclass(frozen=True, slots=True)
class Stale:
    """Rows of the index that a new version drops.

    Attributes:
        keys: fragment id → keys of rows that are replaced or, if asked, gone from the source.
        replaced, gone: how many of either; ``gone`` are counted whether they are dropped or not.
        lost: digests of documents that were found unchanged and have since left the index.
    """

    keys: Mapping[int, Sequence[str]]
    replaced: int
    gone: int
    lost: frozenset[int]


class Records:
    """The records of all pieces of a build, read from the folder whenever they are needed."""

    def __init__(self, job: Job, pieces: Sequence[Piece]) -> None:
        self._folder, self.pieces = Folder(job.records), pieces

    def __iter__(self) -> Iterator[tuple[Piece, Record, Ids]]:
        for piece in self.pieces:
            found = read_record(self._folder, piece.key)
            if found is None:
                raise StorageError(
                    f"The record of {piece.shard}, lines {piece.start + 1} to {piece.stop}, is gone from "
                    f"{self._folder.uri}. Run the same command again; what is recorded is kept."
                )
            yield piece, *found

    def shares(self) -> Iterator[Share]:
        """All ids, a share at a time; none where no shard could be read."""
        if not self.pieces:
            return
        total = sum(len(ids.digests) for _, _, ids in self)
        bits = max(0, int(np.ceil(np.log2(max(1, total / SHARE_IDS)))))
        for number in range(1 << bits):
            yield Share.of(self, bits, number)


@dataclass(frozen=True, slots=True, eq=False)
class Share:
    """Ids whose digests begin with the same bits, sorted by digest, then where they stand; all columns are (n,)."""

    bits: int
    number: int
    names: pa.LargeStringArray
    digests: _Digests
    pieces: npt.NDArray[np.int32]
    lines: npt.NDArray[np.uint32]
    encoded: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, records: Records, bits: int, number: int) -> Share:
        """The share of that number."""
        parts: list[tuple[Any, ...]] = []
        names = []
        for at, (_, _, ids) in enumerate(records):
            mine = _within(ids.digests, bits, number)
            count = int(mine.sum())
            names.append(ids.names.filter(pa.array(mine)))
            parts.append((ids.digests[mine], np.full(count, at, np.int32), ids.lines[mine], ids.encoded[mine]))
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        order = np.lexsort((columns[2], columns[1], columns[0]))  # by digest, then where it stands
        sorted_names = pa.concat_arrays(names).take(pa.array(order))
        return cls(bits, number, sorted_names, *(column[order] for column in columns))

    def holds(self, digests: _Digests) -> npt.NDArray[np.bool_]:
        """Which digests (n,) belong to this share."""
        return _within(digests, self.bits, self.number)

    def place(self, at: int) -> _Place:
        """Where the document at a row stands in the source."""
        return int(self.pieces[at]), int(self.lines[at])

    def name(self, at: int) -> str:
        """The id at a row."""
        return str(self.names[at])

    def find(self, names: pa.Array, digests: _Digests) -> npt.NDArray[np.intp]:
        """Where ids with these digests stand here (n,); -1 for those that do not."""
        at = np.searchsorted(self.digests, digests)
        end = np.searchsorted(self.digests, digests, side="right")
        found = np.full(len(digests), -1, np.intp)
        while len(left := np.flatnonzero((found < 0) & (at < end))):  # once, but where digests of two ids are alike
            same = pc.equal(self.names.take(pa.array(at[left])), names.take(pa.array(left)))
            hits = left[same.to_numpy(zero_copy_only=False)]
            found[hits] = at[hits]
            at[left] += 1
        return found


def _within(digests: _Digests, bits: int, number: int) -> npt.NDArray[np.bool_]:
    if bits == 0:
        return np.ones(len(digests), np.bool_)
    mine: npt.NDArray[np.bool_] = digests >> np.uint64(64 - bits) == np.uint64(number)
    return mine


# -- ids that stand twice --------------------------------------------------------------------------


def repeated_ids(records: Records) -> list[Repeated]:
    """Lines whose id stands in an earlier piece; within a piece the worker has seen to it."""
    repeated: list[tuple[_Place, _Place]] = []
    for share in records.shares():
        first: dict[str, int] = {}
        for at in map(int, np.flatnonzero(share.digests[1:] == share.digests[:-1])):
            first.setdefault(share.name(at), at)
            earlier = first.setdefault(share.name(at + 1), at + 1)
            if earlier <= at:
                repeated.append((share.place(at + 1), share.place(earlier)))
    return [
        Repeated(records.pieces[later[0]], later[1], records.pieces[earlier[0]].where(earlier[1]))
        for later, earlier in sorted(repeated)
    ]


# -- stale rows ------------------------------------------------------------------------------------


def stale_rows(job: Job, dataset: Any, records: Records, *, prune: bool) -> Stale:
    """Compare the newest version of the index with all that was read.

    Args:
        job: of this build.
        dataset: the newest version.
        records: of all pieces.
        prune: whether rows that are gone from the source are dropped.
    """
    keys: dict[int, list[str]] = defaultdict(list)
    replaced = gone = 0
    lost: set[int] = set()
    for share in records.shares():
        present = np.zeros(len(share.digests), np.bool_)
        for ids, digests, fragments in _rows_of(job, dataset):
            at = share.find(ids, digests)
            known = at >= 0
            present[at[known]] = True
            renewed = known.copy()
            renewed[known] = share.encoded[at[known]]
            left = share.holds(digests) & ~known
            replaced, gone = replaced + int(renewed.sum()), gone + int(left.sum())
            for row in np.flatnonzero(renewed | (left if prune else False)):
                keys[int(fragments[row])].append(document_key(job.collection, str(ids[int(row)])))
        lost.update(share.digests[~present & ~share.encoded].tolist())
    return Stale(keys, replaced, gone, frozenset(lost))


def _rows_of(job: Job, dataset: Any) -> Iterator[tuple[pa.Array, _Digests, npt.NDArray[np.int64]]]:
    """Ids of the collection's rows in the index, their digests and their fragments, a batch at a time."""
    scanner = dataset.scanner(
        columns=["id"], filter=f"collection = {quoted(job.collection)}", with_row_address=True, batch_size=8192
    )
    for batch in scanner.to_batches():
        ids = batch["id"].cast(pa.large_string())
        digests = np.fromiter(map(id_digest, ids.to_pylist()), np.uint64, len(ids))
        yield ids, digests, (batch["_rowaddr"].to_numpy().astype(np.uint64) >> np.uint64(32)).astype(np.int64)


# -- the commit ------------------------------------------------------------------------------------


def commit(dataset: Any, records: Records, stale: Stale, build: str, flush: Callable[[], object]) -> bool:
    """Commit all fragments and drop all stale rows at once; whether there was anything to commit.

    Args:
        dataset: the version that ``stale`` was found in.
        records: of all pieces.
        stale: rows to drop.
        build: the name of this build; a version that bears it is not committed again.
        flush: writes what is new through to the disk, so that the version names no file that a power cut can lose.

    Raises:
        StorageError: the index cannot be written.
    """
    fragments = [fragment for _, record, _ in records for fragment in record.fragments]
    if not fragments and not stale.keys:
        return False
    removed, updated = [], []
    try:
        for number, keys in stale.keys.items():
            kept = dataset.get_fragment(number).delete(f"key IN ({', '.join(map(quoted, keys))})")
            if kept is None:
                removed.append(number)
            else:
                updated.append(kept)
        flush()
        operation = lance.LanceOperation.Update(
            removed_fragment_ids=removed,
            updated_fragments=updated,
            new_fragments=[lance.FragmentMetadata.from_json(fragment) for fragment in fragments],
        )
        transaction = lance.Transaction(dataset.version, operation, build)
        lance.LanceDataset.commit(dataset, transaction)
    except (OSError, RuntimeError) as error:
        raise StorageError(f"The new version of {dataset.uri} could not be written: {error}") from error
    return True


def is_committed(dataset: Any, build: str, since: int) -> bool:
    """Whether a version after ``since`` is the commit of that build."""
    newest = dataset.version
    found = (dataset.read_transaction(version) for version in range(since + 1, newest + 1))
    return any(transaction is not None and transaction.uuid == build for transaction in found)


def files_of(record: Record) -> list[str]:
    """The names of the data files a record speaks of."""
    return [part["path"] for text in record.fragments for part in json.loads(text)["files"]]
