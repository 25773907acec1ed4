"""A build: claim the index, do the pieces that are not recorded, commit, tell what became of it."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import lance
import numpy as np
import psutil
import pyarrow as pa

from routerretriever.errors import BuildError, CollectionError, StorageError
from routerretriever.index_store import dataset_uri, is_conflict
from routerretriever.ingest.commit import Records, Stale, commit, files_of, is_committed, repeated_ids, stale_rows
from routerretriever.ingest.files import Folder
from routerretriever.ingest.sources import Listing, Piece, Problem, metadata_fields
from routerretriever.ingest.work import Encode, Job, Record, Worker, read_record
from routerretriever.progress import Progress, Silent
from routerretriever.rows import OWN_COLUMNS, quoted

ON_ERROR = ("stop", "skip", "quarantine")
_CLAIM = "routerretriever.build"
_COMMIT_ATTEMPTS = 10

Run = Callable[[Job, Sequence[Piece]], Iterable[Record]]
"""Does pieces, anywhere and in any order, and yields the record of each as it is done."""


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What became of a build.

    Attributes:
        collection: that was built.
        documents: read from the source.
        encoded: were new or changed; ``recorded`` of them by an earlier attempt.
        unchanged: stand in the index with the very same content.
        replaced: rows of the index that newer ones took the place of.
        gone: rows of the collection that the source no longer has; ``pruned`` says whether they were deleted.
        problems: what was left out.
        quarantine: where the lines left out were written; empty if they were not.
        pieces: the source was cut into.
        seconds: it took.
    """

    collection: str
    documents: int = 0
    encoded: int = 0
    recorded: int = 0
    unchanged: int = 0
    replaced: int = 0
    gone: int = 0
    pruned: bool = False
    problems: tuple[Problem, ...] = ()
    quarantine: str = ""
    pieces: int = 0
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Settings:
    """How to build.

    Attributes:
        on_error: ``stop`` at the first problem, ``skip`` what cannot be indexed, or ``quarantine`` it: skip it and
            keep the lines in a file beside the index.
        resume: take over the build that stands unfinished.
        prune: delete documents of the collection that the source no longer has.
    """

    on_error: str = "stop"
    resume: bool = False
    prune: bool = False

    def __post_init__(self) -> None:
        if self.on_error not in ON_ERROR:
            raise CollectionError(f"on_error is one of {', '.join(ON_ERROR)}, not '{self.on_error}'.")


def run_here(encode: Encode) -> Run:
    """Do the pieces in this process."""

    def run(job: Job, pieces: Sequence[Piece]) -> Iterator[Record]:
        worker = Worker(job, encode)
        return map(worker.process, pieces)

    return run


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
        raise _stopped(listing.problems[0])
    dataset = dataset_uri(uri)
    with claimed(dataset, listing.name, resume=settings.resume) as claim:
        folder = Folder(f"{uri.rstrip('/')}/_builds")
        work = _Work(dataset, folder, listing, run, settings, claim, identity, flush, progress or Silent())
        report = work.done()
    return replace(report, seconds=round(time.perf_counter() - started, 3))


def check_workers(cluster: str | None, workers: int | None) -> None:
    """Refuse workers where there is nothing for them to work on.

    Raises:
        BuildError: there is no cluster.
    """
    if workers is not None and cluster is None:
        raise BuildError("Workers need a cluster to run on. Give --cluster ADDRESS, or local for this machine.")


def _stopped(problem: Problem) -> CollectionError:
    return CollectionError(
        f"{problem} Mend it and run the same command again: what was encoded is kept. To go on without it: "
        "--on-error skip, or quarantine."
    )


# -- who may build ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Claim:
    """Who builds an index: ``build`` names the commit, ``version`` is the one before it."""

    build: str
    version: int
    collection: str
    host: str
    process: int
    started: str

    def is_alive(self) -> bool:
        """Whether it is certainly still at work; of another host nobody can know."""
        if self.host != socket.gethostname():
            return False
        if self.process == os.getpid():
            return self.build in _AT_WORK
        try:
            process = psutil.Process(self.process)
            begun = process.create_time()  # a process that began after the claim only got the same number
            dead = process.status() == psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False
        return not dead and begun < datetime.fromisoformat(self.started).timestamp() + 1

    def __str__(self) -> str:
        return f"a build of '{self.collection}' begun {self.started} by process {self.process} on {self.host}"


_AT_WORK: set[str] = set()  # builds of this very process


@contextmanager
def claimed(dataset: str, collection: str, *, resume: bool) -> Iterator[Claim]:
    """Hold an index for one build; the claim is part of the index, so that it holds on every machine.

    It outlives a kill, and an error does not.

    Raises:
        BuildError: another build holds it, or what ``resume`` takes over is of another collection or still at work.
        StorageError: the index cannot be read or written.
    """
    try:
        opened = lance.dataset(dataset)
    except (OSError, RuntimeError, ValueError) as error:
        raise StorageError(f"The index {dataset} cannot be opened: {error}") from error
    standing = _standing(opened)
    if standing is not None and not resume:
        raise BuildError(
            f"The index is held by {standing}. Wait until it is done; if it was killed, add --resume to take it over."
        )
    if standing is not None and standing.is_alive():
        raise BuildError(f"The index is held by {standing}, which is still at work. Wait until it is done, or end it.")
    if standing is not None and standing.collection != collection:
        raise BuildError(f"The index is held by {standing}. Resume that collection first.")
    now = datetime.now(UTC).isoformat(timespec="seconds")
    mine = Claim(str(uuid.uuid4()), opened.version, collection, socket.gethostname(), os.getpid(), now)
    if standing is not None:
        mine = replace(mine, build=standing.build, version=standing.version)
    try:
        opened.update_config({_CLAIM: json.dumps(asdict(mine))})
    except (OSError, RuntimeError) as error:
        if not is_conflict(error):
            raise StorageError(f"The index {dataset} could not be written: {error}") from error
        raise BuildError(f"Another build claimed the index at the same moment ({error}). Wait for it.") from error
    _AT_WORK.add(mine.build)
    try:
        yield mine
    finally:
        _AT_WORK.discard(mine.build)
        _release(dataset, mine)


def _release(dataset: str, mine: Claim) -> None:
    with suppress(OSError, RuntimeError):  # a full disk takes no release either; then --resume is needed
        newest = lance.dataset(dataset)
        if _standing(newest) == mine:
            newest.delete_config_keys([_CLAIM])


def _standing(dataset: Any) -> Claim | None:
    value = dataset.config().get(_CLAIM)
    return None if value is None else Claim(**json.loads(value))


# -- the work --------------------------------------------------------------------------------------


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
                    raise _stopped(record.problems[0])
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
            raise _stopped(Problem(where, f"its id stands in {first.earlier} too. Make ids unique."))
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
                if not is_conflict(error):
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
