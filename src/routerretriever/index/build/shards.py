"""What is to be indexed, as pieces: runs of rows of a shard, small enough to be done again.

A shard is a file of documents, here or in an object store: JSONL (plain, ``.gz``, ``.zst``) or Parquet. Everything
else, such as a hub data set, is a collection in memory, cut the same way.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from routerretriever.data.collection import Collection
from routerretriever.data.document import Document, as_document, check_document, content_hash
from routerretriever.data.jsonl import LineError, parse_object
from routerretriever.data.names import collection_name
from routerretriever.errors import CollectionError

PIECE_ROWS = 8192
"""Rows of a piece: what a lost worker costs, and what one has in memory."""

_JSONL = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".ndjson")
_SHARDS = (*_JSONL, ".parquet")
_CHUNK = 1 << 16  # bytes; of a truncated shard at most so many are lost before the cut


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that cannot be indexed: where it stands, why, and the line itself."""

    where: str
    reason: str
    raw: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Row:
    """A document and the line (counted from 1) it stands on."""

    line: int
    document: Document


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows ``start`` to ``stop`` (counted from 0) of a shard.

    Attributes:
        offset: byte at which row ``start`` begins, in a plain JSONL file; otherwise the rows before are skipped.
        stamp: size and time of the shard when it was listed; another content is another piece.
        documents: the rows themselves, where there is no shard.
        left_out: lines to leave out, because their id stands on an earlier one.
    """

    shard: str
    start: int
    stop: int
    stamp: str
    offset: int = 0
    documents: tuple[Document, ...] | None = field(default=None, repr=False)
    left_out: tuple[int, ...] = ()

    @property
    def key(self) -> str:
        """A name for files about it; the same rows have the same name."""
        identity = f"{self.shard}\n{self.stamp}\n{self.start}-{self.stop}\n{self.left_out}"
        return f"{self.start:012d}-{hashlib.blake2b(identity.encode(), digest_size=12).hexdigest()}"

    def where(self, line: int) -> str:
        """Shard and line, for people."""
        return f"{self.shard}, line {line}"


@dataclass(frozen=True, slots=True)
class Listing:
    """Everything to be indexed, in a stable order, and shards that could not be read to their end."""

    name: str
    pieces: tuple[Piece, ...]
    problems: tuple[Problem, ...] = ()


# -- listing ---------------------------------------------------------------------------------------


def list_pieces(source: str | Path, *, strict: bool = True) -> Listing:
    """Cut a source into pieces.

    Args:
        source: a file or URI of documents, a folder of such shards, a BEIR folder, or anything that
            :meth:`Collection.load` reads.
        strict: as for :meth:`Collection.load`.

    Raises:
        CollectionError: there is nothing of the kind, or it holds no documents.
    """
    shards = _shards(str(source))
    if shards is None:
        collection = Collection.load(source, strict=strict)
        return Listing(collection.name, tuple(pieces_of(collection.documents)))
    pieces: list[Piece] = []
    problems: list[Problem] = []
    for shard in shards:
        _cut_shard(shard, pieces, problems)
    if not pieces and not problems:
        raise CollectionError(f"{source} holds no documents. Give a file with one JSON object a line, or Parquet.")
    return Listing(collection_name(source), tuple(pieces), tuple(problems))


def pieces_of(documents: Iterable[Document]) -> Iterator[Piece]:
    """The same for documents in memory."""
    kept = tuple(documents)
    for start in range(0, len(kept), PIECE_ROWS):
        part = kept[start : start + PIECE_ROWS]
        digest = hashlib.blake2b(digest_size=16)
        for number, document in enumerate(part, start=start + 1):
            check_document(document, f"Document {number}")
            digest.update(content_hash(document))
        yield Piece("documents", start, start + len(part), digest.hexdigest(), documents=part)


def open_path(uri: str) -> tuple[fs.FileSystem, str]:
    """The file system of a path or URI, and the path on it; credentials come from the environment."""
    if "://" in uri:
        found: tuple[fs.FileSystem, str] = fs.FileSystem.from_uri(uri)
        return found
    return fs.LocalFileSystem(), str(Path(uri).expanduser().absolute())


def _shards(source: str) -> list[str] | None:
    """URIs or paths from the root of the files of documents; None where ``source`` is a collection of another kind."""
    try:
        system, path = open_path(source)
        info = system.get_file_info(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise CollectionError(f"{source} cannot be read ({error}). Check the address and the credentials.") from error
    if info.type == fs.FileType.File:
        return [source if "://" in source else path] if source.endswith(_SHARDS) else None
    if info.type != fs.FileType.Directory:
        if "://" in source:
            raise CollectionError(f"There is nothing at {source}. Check the address.")
        return None
    found = [item.path for item in system.get_file_info(fs.FileSelector(path, recursive=True)) if item.is_file]
    head = source[: len(source) - len(path)] if "://" in source else ""
    inside = {item: item.removeprefix(path).lstrip("/") for item in found}
    corpus = [item for item, name in inside.items() if name.startswith("corpus.") and name.endswith(_SHARDS)]
    hidden = {item for item, name in inside.items() if any(part.startswith((".", "_")) for part in name.split("/"))}
    shards = corpus or [item for item in found if item.endswith(_SHARDS) and item not in hidden]
    if not shards:
        raise CollectionError(f"{source} holds no shards. Documents are in files named {', '.join(_SHARDS)}.")
    return [head + item for item in sorted(shards)]


def _cut_shard(shard: str, pieces: list[Piece], problems: list[Problem]) -> None:
    system, path = open_path(shard)
    info = system.get_file_info(path)
    stamp = f"{info.size}-{info.mtime_ns}"
    cut = _cut_parquet if shard.endswith(".parquet") else _cut_jsonl
    for start, stop, offset in cut(system, path, shard, problems):
        pieces.append(Piece(shard, start, stop, stamp, offset))


_Cut = tuple[int, int, int]


def _cut_parquet(system: fs.FileSystem, path: str, shard: str, problems: list[Problem]) -> Iterator[_Cut]:
    try:
        with pq.ParquetFile(system.open_input_file(path)) as file:
            total = file.metadata.num_rows
    except (OSError, pa.ArrowInvalid) as error:
        problems.append(Problem(shard, f"not a whole Parquet file ({error}). Write it again."))
        return
    for start in range(0, total, PIECE_ROWS):
        yield start, min(start + PIECE_ROWS, total), 0


def _cut_jsonl(system: fs.FileSystem, path: str, shard: str, problems: list[Problem]) -> Iterator[_Cut]:
    """Where pieces begin; the file is read once, a chunk at a time."""
    plain = not path.endswith((".gz", ".zst"))
    start, line, offset, begun, ended = 0, 0, 0, 0, True
    try:
        with system.open_input_stream(path, compression="detect") as stream:
            while chunk := stream.read(_CHUNK):
                at = -1
                while (at := chunk.find(b"\n", at + 1)) >= 0:
                    line += 1
                    if line - start == PIECE_ROWS:
                        yield start, line, begun if plain else 0
                        start, begun = line, offset + at + 1
                offset += len(chunk)
                ended = chunk.endswith(b"\n")
    except (OSError, EOFError) as error:
        problems.append(Problem(f"{shard}, after line {line}", f"cannot be read ({error}). The file may be truncated."))
        ended = True
    line += not ended
    if line > start:
        yield start, line, begun if plain else 0


# -- reading ---------------------------------------------------------------------------------------


def read_piece(piece: Piece) -> Iterator[Row | Problem]:
    """The rows of a piece, in order; what cannot be understood comes as a problem. Blank lines are nothing."""
    if piece.documents is not None:
        for number, document in enumerate(piece.documents, start=piece.start + 1):
            yield Row(number, document)
        return
    records = _parquet_records(piece) if piece.shard.endswith(".parquet") else _jsonl_records(piece)
    for line, record, raw in records:
        if isinstance(record, str):
            yield Problem(piece.where(line), record, raw)
            continue
        try:
            yield Row(line, as_document(record, piece.where(line)))
        except CollectionError as error:
            yield Problem(piece.where(line), str(error).removeprefix(piece.where(line) + ": "), raw)


_Record = tuple[int, dict[str, Any] | str, str]  # line, the record or what is wrong with it, the raw line


def _jsonl_records(piece: Piece) -> Iterator[_Record]:
    system, path = open_path(piece.shard)
    line = piece.start
    try:
        for line, raw in enumerate(_lines(system, path, piece), start=piece.start + 1):
            if raw.strip():
                yield line, *_parsed(raw)
    except (OSError, EOFError) as error:  # a truncated shard; its whole lines were read before
        yield line, f"cannot be read further ({error}). The file may be truncated.", ""


def _lines(system: fs.FileSystem, path: str, piece: Piece) -> Iterator[bytes]:
    if path.endswith((".gz", ".zst")):
        stream = io.BufferedReader(system.open_input_stream(path, compression="detect"), _CHUNK)
        skipped = piece.start
    else:
        file = system.open_input_file(path)
        file.seek(piece.offset)
        stream, skipped = io.BufferedReader(file, _CHUNK), 0
    with stream:
        for number in range(skipped + piece.stop - piece.start):
            raw = stream.readline()
            if not raw:
                return
            if number >= skipped:
                yield raw


def _parsed(raw: bytes) -> tuple[dict[str, Any] | str, str]:
    shown = raw.decode(errors="replace").rstrip("\r\n")
    try:
        return parse_object(raw), shown
    except LineError as error:
        return str(error), shown


def _parquet_records(piece: Piece) -> Iterator[_Record]:
    system, path = open_path(piece.shard)
    line = piece.start
    try:
        with pq.ParquetFile(system.open_input_file(path)) as file:
            groups, first = _row_groups(file, piece)
            for batch in file.iter_batches(batch_size=1024, row_groups=groups):
                for row, record in enumerate(batch.to_pylist(), start=first):
                    if piece.start <= row < piece.stop:
                        line = row + 1
                        yield line, record, ""
                first += batch.num_rows
    except (OSError, pa.ArrowInvalid) as error:
        yield line, f"cannot be read further ({error}). The file may be truncated.", ""


def _row_groups(file: pq.ParquetFile, piece: Piece) -> tuple[Sequence[int], int]:
    """The row groups that hold rows of a piece, and the number of the first's first row."""
    groups: list[int] = []
    first = row = 0
    for number in range(file.metadata.num_row_groups):
        count = file.metadata.row_group(number).num_rows
        if row < piece.stop and row + count > piece.start:
            first = first if groups else row
            groups.append(number)
        row += count
    return groups, first


# -- fields ----------------------------------------------------------------------------------------

SAMPLED_ROWS = 100
"""Rows of every shard in which metadata fields are looked for."""


def kind_of(value: Any) -> pa.DataType:
    """The column type of a metadata value."""
    return pa.scalar(value).type


def metadata_fields(pieces: Sequence[Piece]) -> dict[str, pa.DataType]:
    """Metadata fields by name, as the first rows of every shard have them; int and float make float."""
    fields: dict[str, pa.DataType] = {}
    for piece in pieces:
        if piece.start > 0 and piece.documents is None:
            continue
        for number, row in enumerate(read_piece(piece)):
            if number >= SAMPLED_ROWS and piece.documents is None:
                break
            if isinstance(row, Row):
                for name, value in row.document.metadata.items():
                    fields[name] = _wider(fields.get(name), kind_of(value))
    return fields


def _wider(known: pa.DataType | None, found: pa.DataType) -> pa.DataType:
    numbers = (pa.int64(), pa.float64())
    return pa.float64() if known in numbers and found in numbers and known != found else known or found
