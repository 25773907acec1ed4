"""Keeping an index in shape: building, compaction, taking new rows in, cleaning, and writing through to the disk.

LanceDB has one call for compaction, taking rows into the indexes and removing old versions, so each of the three
verbs here may do a part of the others' work; none of them changes what a search finds in the documents. Before anything
is removed, what takes its place is written through to the disk.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import lance

from routerretriever.errors import BuildError, StorageError, VectorIndexError
from routerretriever.index import kinds as index_kinds
from routerretriever.index.build.settings import check_workers
from routerretriever.index.conflicts import retrying_conflicts
from routerretriever.index.connection import (
    TABLE,
    View,
    bytes_on_disk,
    dataset_uri,
    files,
    local_folder,
)
from routerretriever.index.kinds import IndexKind, Metric
from routerretriever.progress import Progress
from routerretriever.storage.atomic import sync

KEEP_VERSIONS = timedelta(days=7)
"""Old versions younger than this stay, so that no reader loses the version it reads."""

UNINDEXED_LIMIT = 5_000
"""Rows outside an index are scanned at every search; so many cost a few milliseconds."""

FRAGMENT_LIMIT = 64
"""Every write makes a fragment; so many slow a scan down noticeably."""

BUILD_FRAGMENTS = 4
"""More small ones are merged before the first index is built: a search re-scores vectors from all of them."""

SEGMENT_LIMIT = 8
"""Taking rows in adds a segment to the vector index, and each is searched apart; then it is built anew."""

_NEVER = timedelta(days=36_500)
_SLACK = 1 << 20  # manifests and footers


class Result:
    """Plain data for JSON."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)  # type: ignore[call-overload,no-any-return]


@dataclass(frozen=True, slots=True)
class Compacted(Result):
    """What compaction did.

    Attributes:
        fragments_before: pieces the documents were stored in.
        fragments_after: the same now.
        bytes_before: of all files of the index; ``None`` for an object store, like the two below.
        bytes_at_most: that the index can have taken meanwhile; see :func:`_bound`.
        bytes_after: until :meth:`Upkeep.clean` removes the old versions.
        seconds: what it took.
    """

    fragments_before: int
    fragments_after: int
    bytes_before: int | None
    bytes_at_most: int | None
    bytes_after: int | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Refreshed(Result):
    """What a refresh did.

    Attributes:
        vectors: rows taken into the vector index.
        texts: rows taken into the text index.
        rebuilt: the vector index was built anew, because it had come to consist of too many parts.
        bytes_before, bytes_at_most, bytes_after: as for :class:`Compacted`, since it merges fragments as well.
        seconds: what it took.
    """

    vectors: int
    texts: int
    rebuilt: bool
    bytes_before: int | None
    bytes_at_most: int | None
    bytes_after: int | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Cleaned(Result):
    """What cleaning did; bytes are ``None`` for an object store."""

    versions_before: int
    versions_after: int
    bytes_before: int | None
    bytes_after: int | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Flushed(Result):
    """Files and folders that were written through to the disk."""

    files: int
    folders: int


@dataclass(frozen=True, slots=True)
class IndexInfo(Result):
    """An index at a glance.

    Attributes:
        documents: how many.
        collections: name → documents.
        kind: of the vector index.
        text: whether there is a text index.
        unindexed: documents that the vector index, if there is one, has not taken in yet.
        fragments: pieces the documents are stored in.
        versions: that are kept.
        bytes: of all files; ``None`` for an object store.
    """

    documents: int
    collections: dict[str, int]
    kind: IndexKind
    text: bool
    unindexed: int
    fragments: int
    versions: int
    bytes: int | None


class Upkeep:
    """The part of :class:`routerretriever.index.Index` that keeps the table in shape."""

    _table: Any
    _view: View
    uri: str

    @property
    def metric(self) -> Metric:
        raise NotImplementedError

    # -- kinds -------------------------------------------------------------------------------------

    @property
    def kind(self) -> IndexKind:
        """The vector index there is, and why it is of this kind."""
        return index_kinds.present(self._table)

    def build_index(self, kind: str = "auto", *, cluster: str | None = None, workers: int | None = None) -> IndexKind:
        """Build the vector index anew; the choice is remembered.

        Args:
            kind: ``auto`` chooses by the number of documents; ``flat`` drops the index, so that searches scan all
                vectors; ``ivf_flat``, ``ivf_pq``, ``ivf_rq`` and ``hnsw`` are LanceDB's.
            cluster: address of a Ray cluster whose workers build a segment each (not ``hnsw``), or ``local``.
            workers: on the cluster; default one for each processor.

        Raises:
            VectorIndexError: there is no such kind, or it cannot be built for these vectors.
            BuildError: there is no such cluster, or nothing for it to do.
            StorageError: the disk is full or cannot be written.
        """
        check_workers(cluster, workers)
        make = None
        if cluster is not None:
            wanted = index_kinds.choose(int(self._table.count_rows()))[0] if kind == "auto" else kind
            if wanted == "flat":
                raise BuildError(
                    "There is nothing for a cluster to build: without an index ('flat', which 'auto' takes here) all "
                    "vectors are scanned. Leave out --cluster."
                    if kind == "auto"
                    else "There is nothing for a cluster to build for 'flat'. Leave out --cluster."
                )
            from routerretriever.cluster.vector_index import index_maker

            make = index_maker(self._table, self.uri, self.metric, cluster, workers)
        built = index_kinds.build(self._table, kind, self.metric, make)
        self._view.expire()
        return built

    def build_text_index(self) -> float:
        """Build the full-text index of title and text anew, as modes ``text`` and ``hybrid`` need; returns seconds.

        Documents written later are found at once, by a scan, and taken in by :meth:`refresh`.

        Raises:
            StorageError: the disk is full or cannot be written.
        """
        seconds = index_kinds.build_text(self._table)
        self._view.expire()
        return seconds

    # -- verbs -------------------------------------------------------------------------------------

    def compact(self) -> Compacted:
        """Merge the fragments that writes have left, and drop deleted rows from them.

        Fragments in different segments of the vector index cannot be merged: that is then built anew first.

        Raises:
            StorageError: the disk is full or cannot be written; the index stays as it was.
        """
        start, before, fragments = time.perf_counter(), bytes_on_disk(self.uri), _fragments(self._table)
        if _segments(self._table) > 1:
            index_kinds.rebuild(self._table, self.metric)
        self._optimize()
        after = bytes_on_disk(self.uri)
        return Compacted(fragments, _fragments(self._table), before, _bound(before), after, _since(start))

    def refresh(self) -> Refreshed:
        """Take rows that were written since into the vector index and the text index, if there are such.

        Raises:
            StorageError: the disk is full or cannot be written; the index stays as it was.
        """
        start, before = time.perf_counter(), bytes_on_disk(self.uri)
        vectors, texts = _unindexed(self._table, "vector"), _unindexed(self._table, "text")
        rebuilt = vectors > 0 and _segments(self._table) >= SEGMENT_LIMIT
        if rebuilt:
            index_kinds.rebuild(self._table, self.metric)
        self._optimize()
        return Refreshed(vectors, texts, rebuilt, before, _bound(before), bytes_on_disk(self.uri), _since(start))

    def clean(self, older_than: timedelta = KEEP_VERSIONS) -> Cleaned:
        """Remove versions that are older than this, and the files that only they used.

        A reader keeps its version while a search lasts, so an hour is plenty unless something checks out versions
        by number. Files of a write that was killed look like those of one that still runs: they are removed once
        they are seven days old.

        Raises:
            VectorIndexError: ``older_than`` is negative.
            StorageError: something cannot be removed.
        """
        if older_than < timedelta(0):
            raise VectorIndexError(f"An age cannot be negative, but is {older_than}.")
        start, before, versions = time.perf_counter(), bytes_on_disk(self.uri), len(self._table.list_versions())
        self._optimize(older_than)
        after = bytes_on_disk(self.uri)
        return Cleaned(versions, len(self._table.list_versions()), before, after, _since(start))

    def flush(self, *, durable: bool = True) -> Flushed:
        """Write every file and folder that is new since the last flush through to the disk.

        A write is visible to all processes and survives the end of this one as soon as it returns. LanceDB never
        calls fsync, though, so that a power cut can lose it until the operating system has written it out; what
        returns from here is on the disk. The first flush of an opened index covers all its files. An object store
        acknowledges only what is safe, so there is nothing to do. A power cut *while* a write runs can leave its new
        version on the disk without all of its files, since LanceDB orders nothing; the version before it is whole.

        Args:
            durable: without it nothing is done, for callers that pass a setting on.

        Raises:
            StorageError: the disk reports that it could not write.
        """
        folder = local_folder(self.uri)
        if folder is None or not durable:
            return Flushed(0, 0)
        known: dict[Path, tuple[int, ...]] = self.__dict__.setdefault("_flushed", {})
        return _flush(folder.absolute(), known)

    def describe(self) -> IndexInfo:
        """What the index holds, how it is searched, and what it takes; reads one column of all documents."""
        counts: Counter[str] = Counter()
        for batch in self._table.search().select(["collection"]).to_batches(65_536):
            for entry in batch.column("collection").value_counts().to_pylist():
                counts[entry["values"]] += entry["counts"]
        return IndexInfo(
            sum(counts.values()),
            dict(sorted(counts.items())),
            self.kind,
            index_kinds.has_text(self._table),
            _unindexed(self._table, "vector"),
            _fragments(self._table),
            len(self._table.list_versions()),
            bytes_on_disk(self.uri),
        )

    # -- after writes ------------------------------------------------------------------------------

    def _refresh(self, progress: Progress) -> None:
        """Above the exact limit build the approximate index; take in new rows where there have come to be many."""
        build = self._wants_index()
        if not build and not self._is_due():
            return
        with progress.task("index vectors", 1) as task:
            if build:
                if _small_fragments(self._table) > BUILD_FRAGMENTS:
                    with suppress(StorageError):  # no room for the merged ones: the index works without
                        self._optimize()
                self.build_index("auto")
            else:
                self.refresh()
            task.advance()

    def _wants_index(self) -> bool:
        table = self._table
        if index_kinds.vector_indices(table) or table.count_rows() <= index_kinds.EXACT_LIMIT:
            return False
        return index_kinds.chosen_by_size(table)

    def _is_due(self) -> bool:
        table = self._table
        behind = max(_unindexed(table, "vector"), _unindexed(table, "text"))
        return behind > UNINDEXED_LIMIT or _small_fragments(table) > FRAGMENT_LIMIT

    def _optimize(self, older_than: timedelta = KEEP_VERSIONS) -> None:
        """Merge and take in, then remove old versions.

        LanceDB would do it all at once, and remove the old before the new is safe from a power cut.
        """
        try:
            retrying_conflicts(lambda: self._table.optimize(cleanup_older_than=_NEVER))
            self._view.expire()
            self.flush()
            dataset = lance.dataset(dataset_uri(self.uri))
            dataset.cleanup_old_versions(older_than, error_if_tagged_old_versions=False)
        except (OSError, RuntimeError) as error:
            raise StorageError(f"The index {self.uri} could not be written: {error}") from error
        self._table.checkout_latest()


def _bound(before: int | None) -> int | None:
    """Most bytes that an index of so many can take while it is merged.

    Nothing that a reader may still use is removed, so documents and indexes can stand there once more, and the vector
    index twice.
    """
    return None if before is None else 3 * before + _SLACK


def _fragments(table: Any) -> int:
    return int(table.stats()["fragment_stats"]["num_fragments"])


def _small_fragments(table: Any) -> int:
    return int(table.stats()["fragment_stats"]["num_small_fragments"])


def _segments(table: Any) -> int:
    return max((index.num_segments for index in index_kinds.vector_indices(table)), default=0)


def _unindexed(table: Any, column: str) -> int:
    return max((index.num_unindexed_rows for index in table.list_indices() if column in index.columns), default=0)


def _since(start: float) -> float:
    return round(time.perf_counter() - start, 2)


def _flush(folder: Path, known: dict[Path, tuple[int, ...]]) -> Flushed:
    """Sync what ``known`` does not hold yet: files first, so that no folder names one that is not there."""
    table = folder / f"{TABLE}.lance"
    # The index's own folder and its parent hold the entries of folders that may be new as well.
    folders = [*(Path(parent) for parent, _, _ in os.walk(table, topdown=False)), folder, folder.parent]
    done = Flushed(_sync_new(list(files(table)), known), _sync_new(folders, known))
    for gone in [path for path in known if not path.exists()]:
        del known[gone]
    return done


def _sync_new(paths: list[Path], known: dict[Path, tuple[int, ...]]) -> int:
    count = 0
    for path in paths:
        try:
            state = _state(path)
            if known.get(path) != state:
                sync(path)
                known[path] = state
                count += 1
        except FileNotFoundError:  # a file that was cleaned away meanwhile
            continue
        except OSError as error:
            raise StorageError(f"{path} could not be written through to the disk: {error}") from error
    return count


def _state(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size
