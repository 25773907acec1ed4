"""The results of all chunks together: their ids, and ids that are there twice.

Ids are found by 64-bit digests, a part of them at a time, so that memory does not grow with the
collection.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from routerretriever.errors import StorageError
from routerretriever.index.build.chunk_result import ChunkResult, Ids, read_result
from routerretriever.index.build.chunks import Chunk
from routerretriever.index.build.folder import Folder

PART_IDS = 1 << 22
"""Ids compared at once; some 300 MB where an id has 20 bytes."""

Digests = npt.NDArray[np.uint64]
Place = tuple[int, int]
"""Number of a chunk, and a line."""


class ChunkResults:
    """The results of all chunks of a build, read from the folder whenever they are needed."""

    def __init__(self, folder: Folder, chunks: Sequence[Chunk]) -> None:
        self._folder = folder
        self.chunks = chunks

    def __iter__(self) -> Iterator[tuple[Chunk, ChunkResult, Ids]]:
        for chunk in self.chunks:
            found = read_result(self._folder, chunk.key)
            if found is None:
                raise StorageError(
                    f"The record of {chunk.shard}, lines {chunk.start + 1} to {chunk.stop}, is "
                    f"gone from {self._folder.uri}. Run the same command again; what is "
                    "recorded is kept."
                )
            yield chunk, *found

    def id_parts(self) -> Iterator[IdPart]:
        """Yield all ids, a part at a time; there is none if no shard could be read."""
        if not self.chunks:
            return
        total = sum(len(ids.digests) for _, _, ids in self)
        bits = max(0, int(np.ceil(np.log2(max(1, total / PART_IDS)))))
        for number in range(1 << bits):
            yield IdPart.of(self, bits, number)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class IdPart:
    """Ids whose digests begin with the same bits, sorted by digest, then by place.

    Attributes:
        bits: how many of the digest's first bits are the same.
        number: these bits.
        names: the ids (n,).
        digests: of the ids (n,).
        chunks: number of each one's chunk (n,).
        lines: where each is in its shard (n,).
        encoded: whether each was new or changed (n,).
    """

    bits: int
    number: int
    names: pa.LargeStringArray
    digests: Digests
    chunks: npt.NDArray[np.int32]
    lines: npt.NDArray[np.uint32]
    encoded: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, results: ChunkResults, bits: int, number: int) -> IdPart:
        """Return the part of that number."""
        columns: list[tuple[Any, ...]] = []
        names = []
        for chunk, (_, _, ids) in enumerate(results):
            mine = _within(ids.digests, bits, number)
            chunk_numbers = np.full(int(mine.sum()), chunk, np.int32)
            names.append(ids.names.filter(pa.array(mine)))
            columns.append((ids.digests[mine], chunk_numbers, ids.lines[mine], ids.encoded[mine]))

        digests, chunks, lines, encoded = (np.concatenate(column) for column in zip(*columns, strict=True))
        order = np.lexsort((lines, chunks, digests))
        return cls(
            bits=bits,
            number=number,
            names=pa.concat_arrays(names).take(pa.array(order)),
            digests=digests[order],
            chunks=chunks[order],
            lines=lines[order],
            encoded=encoded[order],
        )

    def holds(self, digests: Digests) -> npt.NDArray[np.bool_]:
        """Return which digests (n,) belong to this part."""
        return _within(digests, self.bits, self.number)

    def place(self, at: int) -> Place:
        """Return where the document at a row is in the source."""
        return int(self.chunks[at]), int(self.lines[at])

    def name(self, at: int) -> str:
        """Return the id at a row."""
        return str(self.names[at])

    def find(self, names: pa.Array, digests: Digests) -> npt.NDArray[np.intp]:
        """Return the rows of ids with these digests here (n,); -1 for those that are not here."""
        at = np.searchsorted(self.digests, digests)
        end = np.searchsorted(self.digests, digests, side="right")
        found = np.full(len(digests), -1, np.intp)
        # One round, except where two ids have the same digest.
        while len(left := np.flatnonzero((found < 0) & (at < end))):
            same = pc.equal(self.names.take(pa.array(at[left])), names.take(pa.array(left)))
            hits = left[same.to_numpy(zero_copy_only=False)]
            found[hits] = at[hits]
            at[left] += 1
        return found


def _within(digests: Digests, bits: int, number: int) -> npt.NDArray[np.bool_]:
    if bits == 0:
        return np.ones(len(digests), np.bool_)
    mine: npt.NDArray[np.bool_] = digests >> np.uint64(64 - bits) == np.uint64(number)
    return mine


@dataclass(frozen=True, slots=True)
class RepeatedId:
    """A line whose id is on an earlier line of the source too."""

    chunk: Chunk
    line: int
    earlier: str


def repeated_ids(results: ChunkResults) -> list[RepeatedId]:
    """Return lines whose id is in an earlier chunk; within a chunk the worker has looked."""
    repeated: list[tuple[Place, Place]] = []
    for part in results.id_parts():
        first: dict[str, int] = {}
        for at in map(int, np.flatnonzero(part.digests[1:] == part.digests[:-1])):
            following = at + 1
            first.setdefault(part.name(at), at)
            earlier = first.setdefault(part.name(following), following)
            if earlier <= at:
                repeated.append((part.place(following), part.place(earlier)))

    found = []
    for (chunk, line), (earlier_chunk, earlier_line) in sorted(repeated):
        where = results.chunks[earlier_chunk].where(earlier_line)
        found.append(RepeatedId(results.chunks[chunk], line, where))
    return found
