"""A build: claim the index, do the pieces that are not recorded, commit, tell what became of it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime

import lance
import numpy as np
import pyarrow as pa

from routerretriever.errors import BuildError, CollectionError, StorageError
from routerretriever.index.build.commit import Records, Stale, commit, files_of, is_committed, repeated_ids, stale_rows
from routerretriever.index.build.lock import Claim, claimed
from routerretriever.index.build.records import Folder
from routerretriever.index.build.settings import BuildReport, Run, Settings, stopped
from routerretriever.index.build.shards import Listing, Piece, Problem, metadata_fields
from routerretriever.index.build.worker import Job, read_record
from routerretriever.index.conflicts import is_conflict
from routerretriever.index.connection import dataset_uri
from routerretriever.index.schema import OWN_COLUMNS, quoted
from routerretriever.progress import Progress, Silent

_COMMIT_ATTEMPTS = 10


def build(
    uri: str,
    listing: Listing,
    run: Run,
    settings: Settings,
    *,
    identity: str,
    flush: Callable[[], object],
    progress: Progress | None = None,
) -> BuildReport:
    """Put everything listed into an index, as one new version.

    Args:
        uri: of the index, which exists.
        listing: what to put there, and the collection's name.
        run: who does the pieces.
        settings: how.
        identity: of the vectors: pieces recorded under another are done again.
        flush: writes what is new in the index through to the disk.
        progress: where to report.

    Raises:
        CollectionError: something cannot be indexed, and ``on_error`` is ``stop``.
        BuildError: another build of this index has not finished.
        StorageError: the index cannot be written; what is recorded is kept.
    """
    started = time.perf_counter()
    if listing.problems and settings.on_error == "stop":
        raise stopped(listing.problems[0])
    dataset = dataset_uri(uri)
    with claimed(dataset, listing.name, resume=settings.resume) as claim:
        folder = Folder(f"{uri.rstrip('/')}/_builds")
        work = _Work(dataset, folder, listing, run, settings, claim, identity, flush, progress or Silent())
        report = work.done()
    return replace(report, seconds=round(time.perf_counter() - started, 3))


@dataclass(slots=True)
class _Work:
    dataset: str
    folder: Folder
    listing: Listing
    run: Run
    settings: Settings
    claim: Claim
    identity: str
    flush: Callable[[], object]
    progress: Progress
    recorded: dict[str, int] = field(default_factory=dict)
    _job: Job | None = field(default=None)

    @property
    def job(self) -> Job:
        assert self._job is not None
        return self._job

    def done(self) -> BuildReport:
        self._prepare()
        records = Records(self.job, self.listing.pieces)
        if is_committed(lance.dataset(self.dataset), self.claim.build, self.claim.version):
            stale = Stale({}, 0, 0, frozenset())  # killed between the commit and the end
        else:
            self._do(self._missing())
            self._leave_out_repeated(records)
            stale = self._commit(records)
        report = self._report(records, stale)
        self.flush()  # a power cut may take the new version, or the records, but not both
        Folder(self.job.records).remove()
        return report

    def _prepare(self) -> None:
        """Columns for the metadata, and the job."""
        dataset = lance.dataset(self.dataset)
        fields = metadata_fields(self.listing.pieces)
        if taken := set(fields) & set(OWN_COLUMNS):
            names = ", ".join(sorted(taken))
            raise CollectionError(f"The index needs the names of these metadata fields itself: {names}. Rename them.")
        new = [(name, kind) for name, kind in fields.items() if name not in dataset.schema.names]
        if new:
            dataset.add_columns(pa.schema(new))
        shape = [self.identity, self.listing.name, *map(str, dataset.schema)]
        name = hashlib.blake2b("\n".join(shape).encode(), digest_size=8).hexdigest()
        mine = f"collection = {quoted(self.listing.name)}"
        self._job = Job(
            self.dataset,
            f"{self.folder.uri}/{name}",
            self.listing.name,
            dataset.version,
            compare=dataset.count_rows(mine) > 0,
            fail_fast=self.settings.on_error == "stop",
        )

    def _missing(self) -> list[Piece]:
        """Pieces without a record, or whose files are gone."""
        folder, data = Folder(self.job.records), Folder(f"{self.dataset}/data")
        names = folder.names()
        files = data.names() if names else set()
        missing = []
        for piece in self.listing.pieces:
            found = read_record(folder, piece.key) if piece.key in names else None
            if found is not None and files.issuperset(files_of(found[0])):
                self.recorded[piece.key] = found[0].encoded
                continue
            if found is not None:
                folder.remove(piece.key)
            missing.append(piece)
        return missing

    def _do(self, pieces: Sequence[Piece]) -> None:
        rows = sum(piece.stop - piece.start for piece in pieces)
        by_key = {piece.key: piece for piece in pieces}
        with self.progress.task(f"index {self.listing.name}", rows) as task:
            for record in self.run(self.job, pieces) if pieces else ():
                if record.problems and self.job.fail_fast:
                    raise stopped(record.problems[0])
                piece = by_key.pop(record.piece)
                task.advance(piece.stop - piece.start)
        if by_key:
            raise StorageError(f"{len(by_key)} of {len(pieces)} pieces were not done. Run the same command again.")

    def _leave_out_repeated(self, records: Records) -> None:
        """Do pieces again without the lines whose id stood before."""
        repeated = repeated_ids(records)
        if not repeated:
            return
        if self.job.fail_fast:
            first = repeated[0]
            where = first.piece.where(first.line)
            raise stopped(Problem(where, f"its id stands in {first.earlier} too. Make ids unique."))
        lines: dict[Piece, list[int]] = {}
        for item in repeated:
            lines.setdefault(item.piece, []).append(item.line)
        again = {piece: replace(piece, left_out=tuple(left_out)) for piece, left_out in lines.items()}
        records.pieces = tuple(again.get(piece, piece) for piece in records.pieces)
        self._do(list(again.values()))

    def _commit(self, records: Records) -> Stale:
        for _ in range(_COMMIT_ATTEMPTS):
            dataset = lance.dataset(self.dataset)
            stale = stale_rows(self.job, dataset, records, prune=self.settings.prune)
            if stale.lost:
                self._do_lost(records, stale, dataset.version)
                continue
            try:
                commit(dataset, records, stale, self.claim.build, self.flush)
            except StorageError as error:
                if error.__cause__ is None or not is_conflict(error.__cause__):
                    raise
                continue  # somebody changed rows of the same fragments
            return stale
        raise BuildError(f"Others change the index all the time; {_COMMIT_ATTEMPTS} commits failed. Try again later.")

    def _do_lost(self, records: Records, stale: Stale, version: int) -> None:
        """Documents were found unchanged, and were deleted before the commit: do their pieces again."""
        lost = np.fromiter(stale.lost, np.uint64, len(stale.lost))
        again = [piece for piece, _, ids in records if np.isin(ids.digests, lost).any()]
        for piece in again:
            Folder(self.job.records).remove(piece.key)
        self._job = replace(self.job, version=version)
        self._do(again)

    def _report(self, records: Records, stale: Stale) -> BuildReport:
        problems, documents, encoded = list(self.listing.problems), 0, 0
        for _, record, _ in records:
            problems += record.problems
            documents, encoded = documents + record.rows, encoded + record.encoded
        return BuildReport(
            self.listing.name,
            documents,
            encoded,
            sum(self.recorded.values()),
            documents - encoded,
            stale.replaced,
            stale.gone,
            self.settings.prune,
            tuple(problems),
            self._quarantined(problems),
            len(records.pieces),
        )

    def _quarantined(self, problems: Sequence[Problem]) -> str:
        if not problems or self.settings.on_error != "quarantine":
            return ""
        folder = Folder(f"{self.folder.uri.rsplit('/', 1)[0]}/_quarantine")
        name = f"{self.listing.name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.jsonl"
        lines = (json.dumps(asdict(problem), ensure_ascii=False) + "\n" for problem in problems)
        folder.write(name, "".join(lines).encode())
        return f"{folder.uri}/{name}"
