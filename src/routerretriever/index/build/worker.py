"""One chunk: its rows are read, compared with the index, encoded, and written.

They are written as fragments that no reader sees before the whole build is committed.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import lance
import numpy as np
import numpy.typing as npt

from routerretriever.data.document import Document, content_hash
from routerretriever.errors import StorageError, VectorIndexError
from routerretriever.index.build.check_chunk import ABOUT_NEW_FIELDS, checked_rows
from routerretriever.index.build.chunk_result import ChunkResult, Ids, read_result, write_result
from routerretriever.index.build.chunks import CHUNK_ROWS, Chunk
from routerretriever.index.build.folder import Folder
from routerretriever.index.build.read_chunk import Row
from routerretriever.index.check import DocumentCheck
from routerretriever.index.commit import write_fragments
from routerretriever.index.connection import local_folder
from routerretriever.index.encoder import Encoder, Vectors
from routerretriever.index.rows import Cut, document_rows, part_blocks
from routerretriever.index.schema import document_key, holds_passages, key_condition, metadata_types
from routerretriever.storage.atomic import sync


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What every worker must know; it travels to other machines.

    Attributes:
        dataset: URI of the Lance data set.
        records: folder of the records.
        collection: that the documents belong to.
        version: of the data set that documents are compared with.
        compare: whether there may be documents of this collection already.
        fail_fast: a chunk with a problem gets no record.
        precision: in which documents are encoded: ``fp32``, ``bf16`` or ``int8``.
    """

    dataset: str
    records: str
    collection: str
    version: int
    compare: bool
    fail_fast: bool
    precision: str


Runner = Callable[[Job, Sequence[Chunk]], Iterable[ChunkResult]]
"""Does chunks, anywhere and in any order, and yields the result of each as it is done."""


def run_here(model: Encoder) -> Runner:
    """Return a runner that does the chunks in this process."""

    def run(job: Job, chunks: Sequence[Chunk]) -> Iterator[ChunkResult]:
        worker = Worker(job, partial(model.embed_texts, precision=job.precision), model.cut)
        return map(worker.process, chunks)

    return run


@dataclass(slots=True)
class Worker:
    """Does chunks, one after another; one worker has one model.

    Args:
        job: what all workers know.
        encode: texts → float32 vectors (n, d).
        cut: returns the passages of a document.
    """

    job: Job
    encode: Callable[[list[str]], Vectors]
    cut: Cut
    _dataset: Any = field(default=None, repr=False)

    def process(self, chunk: Chunk) -> ChunkResult:
        """Do a chunk, unless it has a record.

        Raises:
            StorageError: the disk is full, or shards or index cannot be reached.
            VectorIndexError: the index cannot be opened.
        """
        folder = Folder(self.job.records)
        recorded = read_result(folder, chunk.key)
        if recorded is not None:
            return recorded[0]

        start = time.perf_counter()
        check = DocumentCheck(metadata_types(self._opened().schema), ABOUT_NEW_FIELDS)
        rows, problems = checked_rows(chunk, check)
        if problems and self.job.fail_fast:
            return ChunkResult(chunk=chunk.key, rows=len(rows), problems=tuple(problems))

        is_new = self._are_new(rows)
        fragments = self._write([rows[number].document for number in np.flatnonzero(is_new)])
        result = ChunkResult(
            chunk=chunk.key,
            rows=len(rows),
            encoded=int(is_new.sum()),
            fragments=tuple(fragments),
            problems=tuple(problems),
            left_out=tuple(sorted({name for row in rows for name in row.left_out})),
            host=socket.gethostname(),
            seconds=round(time.perf_counter() - start, 3),
        )
        write_result(folder, result, Ids.of(rows, is_new))
        return result

    def _are_new(self, rows: Sequence[Row]) -> npt.NDArray[np.bool_]:
        """Return which rows (n,) are not in the index with the very same content."""
        is_new = np.ones(len(rows), np.bool_)
        if not self.job.compare or not rows:
            return is_new

        # All rows at once: every question is a scan of the keys.
        keys = [document_key(self.job.collection, row.document.id) for row in rows]
        found = self._opened().to_table(columns=["id", "hash"], filter=key_condition(keys))
        known = dict(zip(found["id"].to_pylist(), found["hash"].to_pylist(), strict=True))
        for number, row in enumerate(rows):
            is_new[number] = known.get(row.document.id) != content_hash(row.document)
        return is_new

    def _write(self, documents: Sequence[Document]) -> list[str]:
        dataset = self._opened()
        cut = self.cut if holds_passages(dataset.schema) else None
        written: list[lance.FragmentMetadata] = []
        for block in part_blocks(documents, cut, CHUNK_ROWS):
            vectors = self.encode([part.passage.content for part in block])
            rows = document_rows(block, self.job.collection, vectors, dataset.schema)
            try:
                written += write_fragments(dataset, rows)
                _sync_data_files(self.job.dataset, written)
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


def _sync_data_files(dataset: str, fragments: Sequence[lance.FragmentMetadata]) -> None:
    """Write data files through to a local disk.

    The record that names them is written through too, and must not outlive them.
    """
    root = local_folder(dataset)
    if root is None:
        return
    data = root.absolute() / "data"
    names = [file.path for fragment in fragments for file in fragment.files]
    for path in [*(data / name for name in names), data, data.parent]:
        sync(path)
