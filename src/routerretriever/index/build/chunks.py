"""What is to be indexed, as chunks: runs of rows of a shard, small enough to be done again.

A shard is a file of documents, here or in an object store: JSONL (plain, ``.gz``,
``.zst``) or Parquet. Everything else, such as a hub data set, is a collection in
memory, cut the same way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from routerretriever.data.collection import Collection
from routerretriever.data.document import Document, content_hash
from routerretriever.data.names import FILE_SUFFIXES, JSONL_SUFFIXES, collection_name, compression_of
from routerretriever.errors import CollectionError
from routerretriever.index.build.paths import below, open_path, suffix_of
from routerretriever.index.check import check_fields

CHUNK_ROWS = 8192
"""Rows of a chunk: what a lost worker costs, and what one has in memory."""

SHARD_SUFFIXES = (*JSONL_SUFFIXES, ".parquet")
"""Files of many documents."""
_READ_BYTES = 1 << 16

Cut = tuple[int, int, int]
"""First row of a chunk, the row after its last, and the byte at which it begins."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that cannot be indexed: its place, the reason, and the line itself."""

    where: str
    reason: str
    raw: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Rows ``start`` to ``stop`` (counted from 0) of a shard.

    Attributes:
        shard: path or URI; ``documents`` for documents in memory.
        start: number of the first row.
        stop: number of the row after the last.
        stamp: size and time of the shard when it was listed; other content is another
            chunk.
        offset: byte at which row ``start`` begins in the content of a JSONL file.
            Compressed files are read from their beginning nevertheless.
        documents: the rows themselves, where there is no shard.
        left_out: lines to leave out, because their id is on an earlier one.
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
        """A name for files about the chunk; the same rows have the same name."""
        rows = f"{self.start}-{self.stop}"
        identity = f"{self.shard}\n{self.stamp}\n{rows}\n{self.left_out}"
        return f"{self.start:012d}-{hashlib.blake2b(identity.encode(), digest_size=12).hexdigest()}"

    def where(self, line: int) -> str:
        """Return shard and line (counted from 1) as they are shown."""
        if self.documents is not None:
            return f"Document {line}"
        return f"{self.shard}, line {line}"


@dataclass(frozen=True, slots=True)
class Listing:
    """Everything to be indexed, in a stable order.

    Attributes:
        name: of the collection.
        chunks: all of its documents.
        problems: shards that cannot be read to their end.
        unread: files that cannot be read; they are reported, and never stop the others.
        unlisted: folders that cannot be listed, so that files in them may be missing here.
        other_files: suffix → files of kinds that are not read.
        left_out: fields that were not kept when the source was read, because they hold
            lists or the like; chunks that are still files name theirs later.
    """

    name: str
    chunks: tuple[Chunk, ...]
    problems: tuple[Problem, ...] = ()
    unread: tuple[Problem, ...] = ()
    unlisted: tuple[str, ...] = ()
    other_files: Mapping[str, int] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()


def list_chunks(source: str | Path, *, strict: bool = True) -> Listing:
    """Cut a source into chunks.

    Args:
        source: a file or URI of documents, a folder of such shards, a BEIR folder, or
            anything that :meth:`Collection.load` reads.
        strict: as for :meth:`Collection.load`.

    Raises:
        CollectionError: there is nothing of the kind, or it holds no documents.
    """
    shards = _shards(str(source))
    if shards is None:
        collection = Collection.load(source, strict=strict)
        chunks = tuple(chunks_of(collection.documents))
        return Listing(collection.name, chunks, left_out=collection.left_out)

    cut: list[Chunk] = []
    problems: list[Problem] = []
    for shard in shards:
        cut += _cut_shard(shard, problems)
    if not cut and not problems:
        raise CollectionError(
            f"{source} holds no documents. Give a file with one JSON object a line, or Parquet."
        )
    return Listing(collection_name(source), tuple(cut), tuple(problems))


def chunks_of(documents: Iterable[Document]) -> Iterator[Chunk]:
    """Cut documents in memory into chunks.

    Raises:
        CollectionError: a document cannot be stored.
    """
    kept = tuple(documents)
    for start in range(0, len(kept), CHUNK_ROWS):
        part = kept[start : start + CHUNK_ROWS]
        digest = hashlib.blake2b(digest_size=16)
        for number, document in enumerate(part, start=start + 1):
            check_fields(document, f"Document {number}")
            digest.update(content_hash(document))
        yield Chunk(
            shard="documents",
            start=start,
            stop=start + len(part),
            stamp=digest.hexdigest(),
            documents=part,
        )


def _shards(source: str) -> list[str] | None:
    """Return paths from the root, or URIs, of the files of documents.

    ``None`` if the source is a collection of another kind.
    """
    try:
        system, path = open_path(source)
        info = system.get_file_info(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise CollectionError(
            f"{source} cannot be read ({error}). Check the address and the credentials."
        ) from error

    is_uri = "://" in source
    if info.type == fs.FileType.File:
        if suffix_of(source) not in SHARD_SUFFIXES:
            return None
        return [source if is_uri else path]
    if info.type == fs.FileType.Directory:
        folder = source if is_uri else path
        return [below(folder, shard) for shard in _shards_below(system, path, source)]
    if is_uri:
        raise CollectionError(f"There is nothing at {source}. Check the address.")
    return None


def _shards_below(system: fs.FileSystem, folder: str, source: str) -> list[str]:
    """Return the corpus of a BEIR folder, or else all shards that are not hidden, as paths in the folder."""
    corpus, others = [], []
    for item in system.get_file_info(fs.FileSelector(folder, recursive=True)):
        if not item.is_file or suffix_of(item.path) not in SHARD_SUFFIXES:
            continue
        inside = item.path.removeprefix(folder).lstrip("/")
        if inside.startswith("corpus."):
            corpus.append(inside)
        elif not any(part.startswith((".", "_")) for part in inside.split("/")):
            others.append(inside)
    if not corpus and not others:
        names = ", ".join((*SHARD_SUFFIXES, *FILE_SUFFIXES))
        raise CollectionError(f"{source} holds no documents. They are in files named {names}.")
    return sorted(corpus or others)


def _cut_shard(shard: str, problems: list[Problem]) -> Iterator[Chunk]:
    system, path = open_path(shard)
    info = system.get_file_info(path)
    stamp = f"{info.size}-{info.mtime_ns}"
    cut = _cut_parquet if suffix_of(shard) == ".parquet" else _cut_jsonl
    for start, stop, offset in cut(system, path, shard, problems):
        yield Chunk(shard=shard, start=start, stop=stop, stamp=stamp, offset=offset)


def _cut_parquet(system: fs.FileSystem, path: str, shard: str, problems: list[Problem]) -> Iterator[Cut]:
    try:
        with pq.ParquetFile(system.open_input_file(path)) as file:
            total = file.metadata.num_rows
    except (OSError, pa.ArrowInvalid) as error:
        problems.append(Problem(shard, f"not a whole Parquet file ({error}). Write it again."))
        return
    for start in range(0, total, CHUNK_ROWS):
        yield start, min(start + CHUNK_ROWS, total), 0


def _cut_jsonl(system: fs.FileSystem, path: str, shard: str, problems: list[Problem]) -> Iterator[Cut]:
    """Yield where chunks begin; the file is read once, some bytes at a time."""
    start = line = 0  # first row of the chunk, and the rows read so far
    begun = read = 0  # byte at which the chunk begins, and the bytes read so far
    ended = True
    try:
        with system.open_input_stream(path, compression=compression_of(path)) as stream:
            while block := stream.read(_READ_BYTES):
                at = block.find(b"\n")
                while at >= 0:
                    line += 1
                    if line - start == CHUNK_ROWS:
                        yield start, line, begun
                        start, begun = line, read + at + 1
                    at = block.find(b"\n", at + 1)
                read += len(block)
                ended = block.endswith(b"\n")
    except (OSError, EOFError) as error:
        reason = f"cannot be read ({error}). The file may be truncated."
        problems.append(Problem(f"{shard}, after line {line}", reason))
        ended = True

    line += not ended
    if line > start:
        yield start, line, begun
