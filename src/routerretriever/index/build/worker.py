"""One piece: its rows are read, compared with the index, encoded, and written as fragments no reader sees yet.

A record tells what became of the piece. It is written last and replaces nothing halfway, so that whoever finds it
need not do the piece again, and two workers that did the same piece leave one record.
"""

from __future__ import annotations

import hashlib
import json
import socket
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import lance
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from routerretriever.data.document import content_hash
from routerretriever.errors import StorageError, VectorIndexError
from routerretriever.index.build.records import Folder
from routerretriever.index.build.shards import SAMPLED_ROWS, Piece, Problem, Row, read_piece
from routerretriever.index.connection import local_folder
from routerretriever.index.schema import document_key, document_table, metadata_columns, quoted
from routerretriever.kernels.exact_search import Vectors
from routerretriever.storage.atomic import sync

Encode = Callable[[list[str]], Vectors]


@dataclass(frozen=True, slots=True)
class Job:
    """What every worker must know; it travels to other machines.

    Attributes:
        dataset: URI of the Lance dataset.
        records: folder of the records.
        collection: the documents belong to.
        version: of the dataset that documents are compared with.
        compare: whether there may be documents of this collection already.
        fail_fast: a piece with a problem gets no record.
    """

    dataset: str
    records: str
    collection: str
    version: int
    compare: bool
    fail_fast: bool


@dataclass(frozen=True, slots=True)
class Record:
    """What became of a piece.

    Attributes:
        rows: documents read; ``encoded`` of them were new or changed.
        fragments: Lance's description of the files written, as JSON.
        problems: what was left out.
        host, seconds: who did it, and how long it took.
    """

    piece: str
    rows: int = 0
    encoded: int = 0
    fragments: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    host: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Ids:
    """The documents of a piece: their ids (n,), lines (n,), and whether each was encoded (n,); digests of ids (n,)."""

    names: pa.LargeStringArray
    digests: npt.NDArray[np.uint64]
    lines: npt.NDArray[np.uint32]
    encoded: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, rows: Sequence[Row], encoded: npt.NDArray[np.bool_]) -> Ids:
        """Those of rows."""
        names = [row.document.id for row in rows]
        digests = np.fromiter(map(id_digest, names), np.uint64, len(names))
        lines = np.array([row.line for row in rows], np.uint32)
        return cls(pa.array(names, pa.large_string()), digests, lines, encoded)


def id_digest(document_id: str) -> int:
    """64 bits of an id, to sort and to find by; who finds two alike compares the ids."""
    return int.from_bytes(hashlib.blake2b(document_id.encode(), digest_size=8).digest(), "little")


# -- records ---------------------------------------------------------------------------------------


def write_record(folder: Folder, record: Record, ids: Ids) -> None:
    """Write a record, whole or not at all."""
    table = pa.table({"id": ids.names, "digest": ids.digests, "line": ids.lines, "encoded": ids.encoded})
    table = table.replace_schema_metadata({"record": json.dumps(asdict(record), ensure_ascii=False)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    folder.write(record.piece, sink.getvalue().to_pybytes())


def read_record(folder: Folder, piece: str) -> tuple[Record, Ids] | None:
    """A record, if the piece was done."""
    content = folder.read(piece)
    if content is None:
        return None
    try:
        table = pa.ipc.open_file(content).read_all()
        fields = json.loads(table.schema.metadata[b"record"])
        columns = [table[name].to_numpy() for name in ("digest", "line", "encoded")]
        names = table["id"].combine_chunks()
    except (pa.ArrowInvalid, KeyError, ValueError):
        return None  # a power cut, or another version: the piece is done again
    problems = tuple(Problem(**problem) for problem in fields.pop("problems"))
    record = Record(**{**fields, "fragments": tuple(fields["fragments"])}, problems=problems)
    return record, Ids(names, *columns)


# -- work ------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Worker:
    """Does pieces, one after another; one worker has one model.

    Args:
        job: what all workers know.
        encode: texts → float32 vectors (n, d).
    """

    job: Job
    encode: Encode
    _dataset: Any = field(default=None, repr=False)

    def process(self, piece: Piece) -> Record:
        """Do a piece, unless its record stands.

        Raises:
            StorageError: the disk is full, or shards or index cannot be reached.
            VectorIndexError: a document does not fit the index.
        """
        folder = Folder(self.job.records)
        done = read_record(folder, piece.key)
        if done is not None:
            return done[0]
        start = time.perf_counter()
        rows, problems = self._checked_rows(piece)
        if problems and self.job.fail_fast:
            return Record(piece.key, len(rows), problems=tuple(problems))
        new = self._new_or_changed(rows)
        fragments = self._write([row.document for row, is_new in zip(rows, new, strict=True) if is_new])
        record = Record(
            piece.key,
            len(rows),
            int(new.sum()),
            tuple(fragments),
            tuple(problems),
            socket.gethostname(),
            round(time.perf_counter() - start, 3),
        )
        write_record(folder, record, Ids.of(rows, new))
        return record

    def _checked_rows(self, piece: Piece) -> tuple[list[Row], list[Problem]]:
        schema = self._opened().schema
        names, rows, problems = set(metadata_columns(schema)), dict[str, Row](), list[Problem]()
        for row in read_piece(piece):
            if isinstance(row, Problem):
                problems.append(row)
                continue
            where, document = piece.where(row.line), row.document
            if row.line in piece.left_out:
                problems.append(Problem(where, f"the id '{document.id}' stands on an earlier line too."))
            elif (earlier := rows.get(document.id)) is not None:
                reason = f"the id '{document.id}' stands on line {earlier.line} too. Make ids unique."
                problems.append(Problem(where, reason))
            elif (why := misfit(document.metadata, names, schema)) is not None:
                problems.append(Problem(where, why))
            else:
                rows[document.id] = row
        return list(rows.values()), problems

    def _new_or_changed(self, rows: Sequence[Row]) -> npt.NDArray[np.bool_]:
        """Which rows (n,) are not in the index with the very same content."""
        new = np.ones(len(rows), np.bool_)
        if not self.job.compare or not rows:
            return new
        # All at once: every question is a scan of the keys.
        keys = ", ".join(quoted(document_key(self.job.collection, row.document.id)) for row in rows)
        found = self._opened().to_table(columns=["id", "hash"], filter=f"key IN ({keys})")
        known = dict(zip(found["id"].to_pylist(), found["hash"].to_pylist(), strict=True))
        for number, row in enumerate(rows):
            new[number] = known.get(row.document.id) != content_hash(row.document)
        return new

    def _write(self, documents: Sequence[Any]) -> list[str]:
        if not documents:
            return []
        vectors = self.encode([document.content for document in documents])
        dataset = self._opened()
        table = document_table(documents, self.job.collection, vectors, dataset.schema)
        try:
            written = lance.fragment.write_fragments(table, dataset, mode="append")
            _sync_files(self.job.dataset, [file.path for fragment in written for file in fragment.files])
        except (OSError, RuntimeError) as error:
            raise StorageError(f"The index {self.job.dataset} could not be written: {error}") from error
        return [json.dumps(fragment.to_json()) for fragment in written]

    def _opened(self) -> Any:
        if self._dataset is None:
            try:
                self._dataset = lance.dataset(self.job.dataset, version=self.job.version)
            except (OSError, RuntimeError, ValueError) as error:
                raise VectorIndexError(f"The index {self.job.dataset} cannot be opened: {error}") from error
        return self._dataset


def _sync_files(dataset: str, names: Sequence[str]) -> None:
    """Write data files through to a local disk: the record that speaks of them is, and must not outlive them."""
    root = local_folder(dataset)
    if root is None:
        return
    data = root.absolute() / "data"
    for path in [*(data / name for name in names), data, data.parent]:
        sync(path)


def misfit(metadata: Any, names: Collection[str], schema: pa.Schema) -> str | None:
    """Why a document's metadata do not fit the index; None if they do."""
    for name, value in metadata.items():
        if name not in names:
            known = ", ".join(sorted(names)) or "it has none"
            return (
                f"the field '{name}' is not one of the index's: {known}. Fields are looked for in the first "
                f"{SAMPLED_ROWS} rows of every shard: move a row that has it there, or leave such rows out with "
                "--on-error skip."
            )
        kind = schema.field(name).type
        fits = (
            (pa.types.is_boolean(kind) and isinstance(value, bool))
            or (pa.types.is_integer(kind) and isinstance(value, int) and not isinstance(value, bool))
            or (pa.types.is_floating(kind) and isinstance(value, int | float) and not isinstance(value, bool))
            or (pa.types.is_string(kind) and isinstance(value, str))
        )
        if not fits:
            return f"the field '{name}' is {type(value).__name__} here and {kind} in the index. Use one type a field."
    return None
