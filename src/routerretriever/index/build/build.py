"""A build: lock the index, do the chunks that have no record, commit, and report."""

from __future__ import annotations

import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import lance
import numpy as np

from routerretriever.errors import BuildError, CollectionError, StorageError
from routerretriever.index.build.all_results import ChunkResults, RepeatedId, repeated_ids
from routerretriever.index.build.chunk_result import read_result
from routerretriever.index.build.chunks import Chunk, Listing, Problem
from routerretriever.index.build.committed import is_committed
from routerretriever.index.build.folder import Folder
from routerretriever.index.build.lock import BuildLock, build_lock
from routerretriever.index.build.read_chunk import sampled_documents
from routerretriever.index.build.replaced_rows import (
    NOTHING_TO_REPLACE,
    RowsToReplace,
    rows_to_replace,
)
from routerretriever.index.build.report import BuildReport
from routerretriever.index.build.settings import BuildSettings
from routerretriever.index.build.worker import Job, Runner
from routerretriever.index.columns import add_missing_columns, drop_added_columns
from routerretriever.index.commit import commit_rows, committing
from routerretriever.index.conflicts import is_conflict
from routerretriever.index.connection import dataset_uri
from routerretriever.index.fields import new_fields
from routerretriever.index.schema import check_same_base, metadata_types, quoted
from routerretriever.progress import Progress

_COMMIT_ATTEMPTS = 10
_PATIENT_ATTEMPTS = 3
"""Attempts at a commit for which no other may have come between; see :meth:`Build._commit`."""


def build(
    uri: str,
    listing: Listing,
    runner: Runner,
    settings: BuildSettings,
    *,
    fingerprint: str,
    precision: str,
    flush: Callable[[], object],
    progress: Progress,
) -> BuildReport:
    """Put everything listed into an index, as one new version.

    Args:
        uri: of the index, which exists.
        listing: what to put there, and the collection's name.
        runner: does the chunks.
        settings: how.
        fingerprint: of the model: chunks recorded under another are done again.
        precision: in which documents are encoded; the same holds for it.
        flush: writes what is new in the index through to the disk.
        progress: where to report.

    Raises:
        CollectionError: something cannot be indexed, and ``on_error`` is ``stop``.
        BuildError: another build of this index has not finished.
        FingerprintError: the index was migrated to another base meanwhile.
        StorageError: the index cannot be written; what is recorded is kept.
    """
    started = time.perf_counter()
    if listing.problems and settings.on_error == "stop":
        raise stopped(listing.problems[0])
    with build_lock(dataset_uri(uri), listing.name, resume=settings.resume) as lock:
        check_same_base(lance.dataset(dataset_uri(uri)).schema, fingerprint, uri)
        work = Build(
            uri=uri,
            listing=listing,
            runner=runner,
            settings=settings,
            fingerprint=fingerprint,
            precision=precision,
            flush=flush,
            progress=progress,
            lock=lock,
        )
        report = work.run()
    return replace(report, seconds=round(time.perf_counter() - started, 3))


def stopped(problem: Problem) -> CollectionError:
    """Return the error of a build that stops at a problem."""
    return CollectionError(
        f"{problem} Fix it and rerun the command: what was encoded is kept. "
        "To go on without it: --on-error skip, or quarantine."
    )


@dataclass(slots=True, kw_only=True)
class Build:
    """One build, from the lock to the report; the arguments are those of :func:`build`."""

    uri: str
    listing: Listing
    runner: Runner
    settings: BuildSettings
    fingerprint: str
    precision: str
    flush: Callable[[], object]
    progress: Progress
    lock: BuildLock
    _recorded: int = field(default=0, init=False)  # documents that an earlier attempt encoded

    def run(self) -> BuildReport:
        """Do what is left to do of the build."""
        added = self._add_columns()
        job = self._job()
        results = ChunkResults(Folder(job.records), self.listing.chunks)
        try:
            replaced = self._written(job, results)
        except BaseException:
            # What is recorded has the columns; where nothing is, nobody needs them.
            if not Folder(job.records).names():
                drop_added_columns(self._dataset_uri, added)
            raise

        report = self._report(results, replaced)
        self.flush()  # a power cut may take the new version, or the records, but not both
        Folder(job.records).remove()
        return report

    @property
    def _dataset_uri(self) -> str:
        return dataset_uri(self.uri)

    def _opened(self) -> Any:
        return lance.dataset(self._dataset_uri)

    # -- before ------------------------------------------------------------------------------

    def _add_columns(self) -> list[str]:
        present = metadata_types(self._opened().schema)
        fields = new_fields(sampled_documents(self.listing.chunks), present)
        return add_missing_columns(self._dataset_uri, fields)

    def _job(self) -> Job:
        dataset, collection = self._opened(), self.listing.name

        # Chunks are recorded per model, precision, collection and columns.
        identity = f"{self.fingerprint}-{self.precision}"
        shape = "\n".join([identity, collection, *map(str, dataset.schema)])
        name = hashlib.blake2b(shape.encode(), digest_size=8).hexdigest()

        return Job(
            dataset=self._dataset_uri,
            records=f"{self.uri.rstrip('/')}/_builds/{name}",
            collection=collection,
            version=dataset.version,
            compare=dataset.count_rows(f"collection = {quoted(collection)}") > 0,
            fail_fast=self.settings.on_error == "stop",
            precision=self.precision,
        )

    # -- chunks ------------------------------------------------------------------------------

    def _written(self, job: Job, results: ChunkResults) -> RowsToReplace:
        """Do the chunks and commit them, unless that was done before a kill."""
        records = Folder(job.records)
        if self.settings.resume and is_committed(self._opened(), self.lock, records):
            return NOTHING_TO_REPLACE
        self._do(job, self._missing(job))
        self._leave_out_repeated(job, results)
        return self._commit(job, results)

    def _missing(self, job: Job) -> list[Chunk]:
        """Return the chunks without a record, or whose files are gone."""
        folder = Folder(job.records)
        recorded = folder.names()
        files = Folder(f"{job.dataset}/data").names() if recorded else set()
        missing = []
        for chunk in self.listing.chunks:
            found = read_result(folder, chunk.key) if chunk.key in recorded else None
            if found is not None and files.issuperset(found[0].data_files()):
                self._recorded += found[0].encoded
                continue
            if found is not None:
                folder.remove(chunk.key)
            missing.append(chunk)
        return missing

    def _do(self, job: Job, chunks: Sequence[Chunk]) -> None:
        if not chunks:
            return
        left = {chunk.key: chunk for chunk in chunks}
        rows = sum(chunk.stop - chunk.start for chunk in chunks)
        with self.progress.task(f"index {self.listing.name}", rows) as task:
            for result in self.runner(job, chunks):
                if result.problems and job.fail_fast:
                    raise stopped(result.problems[0])
                chunk = left.pop(result.chunk)
                task.advance(chunk.stop - chunk.start)
        if left:
            raise StorageError(
                f"{len(left)} of {len(chunks)} chunks were not done. Run the same command again."
            )

    def _leave_out_repeated(self, job: Job, results: ChunkResults) -> None:
        """Do chunks again without the lines whose id is on an earlier line."""
        repeated = repeated_ids(results)
        if repeated and job.fail_fast:
            raise stopped(_problem_of(repeated[0]))

        lines: dict[str, list[int]] = defaultdict(list)
        for item in repeated:
            lines[item.chunk.key].append(item.line)
        chunks, again = [], []
        for chunk in results.chunks:
            if chunk.key in lines:
                chunk = replace(chunk, left_out=tuple(lines[chunk.key]))
                again.append(chunk)
            chunks.append(chunk)
        results.chunks = chunks
        self._do(job, again)

    # -- the commit --------------------------------------------------------------------------

    def _commit(self, job: Job, results: ChunkResults) -> RowsToReplace:
        """Commit all fragments and drop the rows that they replace, at once.

        Comparing takes long in a large index, so others may write meanwhile. If they have, it
        is done again; from :data:`_PATIENT_ATTEMPTS` on only if they changed the same rows.
        """
        for attempt in range(_COMMIT_ATTEMPTS):
            dataset = self._opened()
            replaced = rows_to_replace(dataset, results, job.collection, prune=bool(self.settings.prune))
            if replaced.lost:
                job = self._do_lost(job, results, replaced.lost, dataset.version)
                continue
            self.flush()  # here, so that it takes little time once the lock is held
            try:
                with committing(self.uri):
                    if attempt < _PATIENT_ATTEMPTS and self._opened().version > dataset.version:
                        continue
                    self._commit_fragments(dataset, results, replaced)
            except (OSError, RuntimeError) as error:
                if is_conflict(error):
                    continue
                raise StorageError(
                    f"The new version of {dataset.uri} could not be written: {error}"
                ) from error
            return replaced
        raise BuildError(
            f"Others change the index all the time; {_COMMIT_ATTEMPTS} commits failed. Try again later."
        )

    def _commit_fragments(self, dataset: Any, results: ChunkResults, replaced: RowsToReplace) -> None:
        fragments = []
        for _, result, _ in results:
            fragments += [lance.FragmentMetadata.from_json(text) for text in result.fragments]
        if fragments or replaced.keys:
            commit_rows(dataset, fragments, replaced.keys, name=self.lock.build, before=self.flush)

    def _do_lost(self, job: Job, results: ChunkResults, lost: frozenset[int], version: int) -> Job:
        """Do chunks again whose documents were found unchanged, and were deleted meanwhile."""
        digests = np.fromiter(lost, np.uint64, len(lost))
        again = [chunk for chunk, _, ids in results if np.isin(ids.digests, digests).any()]
        for chunk in again:
            Folder(job.records).remove(chunk.key)
        newer = replace(job, version=version)
        self._do(newer, again)
        return newer

    # -- the report --------------------------------------------------------------------------

    def _report(self, results: ChunkResults, replaced: RowsToReplace) -> BuildReport:
        problems = [*self.listing.problems, *self.listing.unread]
        documents = encoded = 0
        left_out = set(self.listing.left_out)
        for _, result, _ in results:
            problems += result.problems
            left_out.update(result.left_out)
            documents += result.rows
            encoded += result.encoded
        return BuildReport(
            collection=self.listing.name,
            documents=documents,
            encoded=encoded,
            recorded=self._recorded,
            unchanged=documents - encoded,
            replaced=replaced.replaced,
            gone=replaced.gone,
            pruned=bool(self.settings.prune),
            problems=tuple(problems),
            quarantine=self._quarantined(problems),
            left_out=tuple(sorted(left_out)),
            other_files=self.listing.other_files,
            chunks=len(results.chunks),
        )

    def _quarantined(self, problems: Sequence[Problem]) -> str:
        if not problems or self.settings.on_error != "quarantine":
            return ""
        folder = Folder(f"{self.uri.rstrip('/')}/_quarantine")
        name = f"{self.listing.name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.jsonl"
        lines = [json.dumps(asdict(problem), ensure_ascii=False) + "\n" for problem in problems]
        folder.write(name, "".join(lines).encode())
        return f"{folder.uri}/{name}"


def _problem_of(repeated: RepeatedId) -> Problem:
    where = repeated.chunk.where(repeated.line)
    return Problem(where, f"its id is in {repeated.earlier} too. Make ids unique.")
