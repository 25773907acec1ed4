"""Maintenance of an index: building, compacting, refreshing, and cleaning.

Merging fragments, taking rows into the indexes and removing old versions go together, so each of
the three methods here may do a part of the others' work; none of them changes what a search finds
in the documents. Before anything is removed, what takes its place is written through to the disk.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial

from routerretriever.errors import BuildError, StorageError, VectorIndexError
from routerretriever.index import kinds
from routerretriever.index.conflicts import retrying_conflicts
from routerretriever.index.connection import bytes_on_disk
from routerretriever.index.flush import Flusher
from routerretriever.index.kinds import IndexKind
from routerretriever.index.reports import Cleaned, Compacted, Flushed, IndexInfo, Refreshed
from routerretriever.index.schema import FIRST_ROWS
from routerretriever.index.table import IndexTable
from routerretriever.index.texts import TextIndex, build_text, drop_text, wants_text
from routerretriever.progress import Progress
from routerretriever.words.text_index import TextSettings, present_settings

Builder = Callable[[IndexTable, str], None]
"""Builds a vector index of a kind for the documents of a table, for example on a cluster."""

KEEP_VERSIONS = timedelta(days=7)
"""Old versions younger than this are kept, so that no reader loses the version it reads."""

UNINDEXED_LIMIT = 5_000
"""Rows outside an index are scanned at every search; this many cost a few milliseconds."""

FRAGMENT_LIMIT = 64
"""Every write makes a fragment; this many slow a scan down noticeably."""

BUILD_FRAGMENTS = 4
"""More small fragments than this are merged before the first index is built: a search
re-scores vectors from all of them."""

SEGMENT_LIMIT = 8
"""Taking rows in adds a segment to the vector index, and each is searched separately; at this
many the index is built again."""

_SMALL_ROWS = 100_000  # fragments with fewer rows are small
_SLACK = 1 << 20  # bytes of manifests and footers


class Maintenance:
    """Builds and describes the indexes of a table, and keeps it in shape.

    Attributes:
        table: what is stored.
    """

    def __init__(self, table: IndexTable) -> None:
        self.table = table
        self._flusher = Flusher(table.uri)

    @property
    def kind(self) -> IndexKind:
        return kinds.present(self.table.newest())

    def build_index(self, kind: str, builder: Builder | None) -> IndexKind:
        """Build the vector index again, here or by a builder; see :meth:`Index.build_index`."""
        make = None
        if builder is not None:
            self._check_buildable(kind)
            make = partial(builder, self.table)
        built = kinds.build(self.table, kind, make)
        self.table.latest.expire()
        return built

    def _check_buildable(self, kind: str) -> None:
        chosen = kinds.choose(self.table.rows)[0] if kind == "auto" else kind
        if chosen != "flat":
            return
        if kind == "flat":
            raise BuildError("There is nothing for a cluster to build for 'flat'. Leave out --cluster.")
        raise BuildError(
            "There is nothing for a cluster to build: without an index ('flat', which 'auto' "
            "takes here) all vectors are scanned. Leave out --cluster."
        )

    def build_text_index(self, settings: TextSettings) -> TextIndex:
        """Build the full-text index again; see :meth:`Index.build_text_index`."""
        built = build_text(self.table, settings)
        self.table.latest.expire()
        return built

    def drop_text_index(self) -> None:
        """Drop the full-text index; see :meth:`Index.drop_text_index`."""
        drop_text(self.table)
        self.table.latest.expire()

    def compact(self) -> Compacted:
        """Merge fragments; see :meth:`Index.compact`."""
        start = time.perf_counter()
        bytes_before, fragments_before = self._bytes(), self._fragments()

        # Fragments in different segments of the vector index cannot be merged: it is built again.
        if self._segments() > 1:
            kinds.rebuild(self.table)
        self._optimize()

        return Compacted(
            fragments_before=fragments_before,
            fragments_after=self._fragments(),
            bytes_before=bytes_before,
            bytes_at_most=_most_bytes(bytes_before),
            bytes_after=self._bytes(),
            seconds=_seconds_since(start),
        )

    def refresh(self) -> Refreshed:
        """Take new rows into the indexes; see :meth:`Index.refresh`."""
        start, bytes_before = time.perf_counter(), self._bytes()
        vectors, texts = self._unindexed("vector"), self._unindexed("text")

        rebuilt = vectors > 0 and self._segments() >= SEGMENT_LIMIT
        if rebuilt:
            kinds.rebuild(self.table)
        self._optimize()

        return Refreshed(
            vectors=vectors,
            texts=texts,
            rebuilt=rebuilt,
            bytes_before=bytes_before,
            bytes_at_most=_most_bytes(bytes_before),
            bytes_after=self._bytes(),
            seconds=_seconds_since(start),
        )

    def clean(self, older_than: timedelta) -> Cleaned:
        """Remove old versions; see :meth:`Index.clean`."""
        if older_than < timedelta(0):
            raise VectorIndexError(f"An age cannot be negative, but is {older_than}.")
        start, bytes_before = time.perf_counter(), self._bytes()
        versions_before = self._versions()

        self._optimize(older_than)

        return Cleaned(
            versions_before=versions_before,
            versions_after=self._versions(),
            bytes_before=bytes_before,
            bytes_after=self._bytes(),
            seconds=_seconds_since(start),
        )

    def flush(self) -> Flushed:
        """Write what is new through to the disk; see :meth:`Index.flush`."""
        return self._flusher.flush()

    def describe(self) -> IndexInfo:
        """Return the index at a glance; see :meth:`Index.describe`."""
        counts: Counter[str] = Counter()
        dataset = self.table.newest()
        where = FIRST_ROWS if self.table.holds_passages else None
        for batch in dataset.to_batches(columns=["collection"], filter=where, batch_size=65_536):
            for entry in batch.column("collection").value_counts().to_pylist():
                counts[entry["values"]] += entry["counts"]
        return IndexInfo(
            documents=sum(counts.values()),
            passages=int(dataset.count_rows()),
            collections=dict(sorted(counts.items())),
            kind=kinds.present(dataset),
            text=present_settings(dataset),
            unindexed=self._unindexed("vector"),
            fragments=self._fragments(),
            versions=self._versions(),
            bytes=self._bytes(),
            fingerprint=self.table.info["fingerprint"],
            model=self.table.info["model"],
        )

    # -- after writes ------------------------------------------------------------------------

    def after_write(self, progress: Progress) -> None:
        """Build the first indexes, or take new rows in, where there are many."""
        if self._wants_first_index():
            with progress.task("index vectors", 1) as task:
                self._merge_before_first_index()
                self.build_index("auto", None)
                task.advance()
        elif self._is_due():
            with progress.task("refresh the index", 1) as task:
                self.refresh()
                task.advance()
        if wants_text(self.table.newest()):
            with progress.task("index words", 1) as task:
                self.build_text_index(TextSettings())
                task.advance()

    def _merge_before_first_index(self) -> None:
        if self._small_fragments() > BUILD_FRAGMENTS:
            # Where there is no room for the merged ones, the index works without.
            with suppress(StorageError):
                self._optimize()

    def _wants_first_index(self) -> bool:
        dataset = self.table.newest()
        if kinds.vector_indices(dataset) or dataset.count_rows() <= kinds.EXACT_LIMIT:
            return False
        return kinds.chosen_by_size(dataset)

    def _is_due(self) -> bool:
        behind = max(self._unindexed("vector"), self._unindexed("text"))
        return behind > UNINDEXED_LIMIT or self._small_fragments() > FRAGMENT_LIMIT

    # -- Lance -------------------------------------------------------------------------------

    def _optimize(self, older_than: timedelta = KEEP_VERSIONS) -> None:
        """Merge fragments and take rows in, then remove old versions.

        The new is made safe from a power cut before the old is removed.
        """
        try:
            retrying_conflicts(self._merge_and_take_in)
            self.table.latest.expire()
            self.flush()
            self.table.newest().cleanup_old_versions(older_than, error_if_tagged_old_versions=False)
        except (OSError, RuntimeError) as error:
            raise StorageError(f"The index {self.table.uri} could not be written: {error}") from error
        self.table.refresh()

    def _merge_and_take_in(self) -> None:
        dataset = self.table.newest()
        dataset.optimize.compact_files()
        dataset.optimize.optimize_indices()

    def _bytes(self) -> int | None:
        return bytes_on_disk(self.table.uri)

    def _versions(self) -> int:
        return len(self.table.newest().versions())

    def _fragments(self) -> int:
        return len(self.table.newest().get_fragments())

    def _small_fragments(self) -> int:
        return int(self.table.newest().stats.dataset_stats(_SMALL_ROWS)["num_small_files"])

    def _segments(self) -> int:
        indices = kinds.vector_indices(self.table.newest())
        return max((len(index.segments) for index in indices), default=0)

    def _unindexed(self, column: str) -> int:
        dataset = self.table.newest()
        indices = [index for index in dataset.describe_indices() if column in index.field_names]
        if not indices:
            return 0
        return int(dataset.count_rows() - min(index.num_rows_indexed for index in indices))


def _most_bytes(before: int | None) -> int | None:
    """Return the most bytes that an index of this size can take while it is merged.

    Nothing that a reader may still use is removed, so that documents and indexes can be
    there once more, and the vector index twice.
    """
    return None if before is None else 3 * before + _SLACK


def _seconds_since(start: float) -> float:
    return round(time.perf_counter() - start, 2)
