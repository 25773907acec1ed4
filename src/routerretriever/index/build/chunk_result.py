"""What became of a chunk, recorded in a file beside the index.

The record is written last and whole, so that a chunk that has one need not be done again, and
two workers that did the same chunk leave one record.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from routerretriever.index.build.chunks import Problem
from routerretriever.index.build.folder import Folder
from routerretriever.index.build.read_chunk import Row


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkResult:
    """What became of a chunk.

    Attributes:
        chunk: key of the chunk.
        rows: documents read.
        encoded: documents that were new or changed.
        fragments: Lance's description of the files written, as JSON.
        problems: documents that were left out.
        left_out: fields that were not stored, because they hold lists or other such values.
        host: that did it.
        seconds: that it took.
    """

    chunk: str
    rows: int = 0
    encoded: int = 0
    fragments: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    left_out: tuple[str, ...] = ()
    host: str = ""
    seconds: float = 0.0

    def data_files(self) -> list[str]:
        """Return the names of the data files written."""
        parts = (json.loads(fragment)["files"] for fragment in self.fragments)
        return [part["path"] for files in parts for part in files]

    def to_json(self) -> str:
        """Return the content of the record; the names in it are those of the first version."""
        content = asdict(self)
        content["piece"] = content.pop("chunk")
        return json.dumps(content, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: bytes) -> ChunkResult:
        """Return what :meth:`to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: the content is not that of a record.
        """
        content: dict[str, Any] = json.loads(text)
        content["chunk"] = content.pop("piece")
        content["problems"] = tuple(Problem(**problem) for problem in content["problems"])
        for name in ("fragments", "left_out"):
            content[name] = tuple(content.get(name, ()))
        return cls(**content)


@dataclass(frozen=True, slots=True, eq=False)
class Ids:
    """The documents of a chunk.

    Attributes:
        names: their ids (n,).
        digests: of the ids (n,).
        lines: where they are in the shard (n,).
        encoded: whether each was new or changed (n,).
    """

    names: pa.LargeStringArray
    digests: npt.NDArray[np.uint64]
    lines: npt.NDArray[np.uint32]
    encoded: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, rows: Sequence[Row], encoded: npt.NDArray[np.bool_]) -> Ids:
        """Return the ids of rows."""
        names = [row.document.id for row in rows]
        digests = np.fromiter(map(id_digest, names), np.uint64, len(names))
        lines = np.array([row.line for row in rows], np.uint32)
        return cls(pa.array(names, pa.large_string()), digests, lines, encoded)


def id_digest(document_id: str) -> int:
    """Return 64 bits of an id, to sort and to find by; equal digests need a look at the ids."""
    return int.from_bytes(hashlib.blake2b(document_id.encode(), digest_size=8).digest(), "little")


def write_result(folder: Folder, result: ChunkResult, ids: Ids) -> None:
    """Write a record, whole or not at all.

    Raises:
        StorageError: it cannot be written.
    """
    columns = {
        "id": ids.names,
        "digest": ids.digests,
        "line": ids.lines,
        "encoded": ids.encoded,
    }
    table = pa.table(columns).replace_schema_metadata({"record": result.to_json()})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    folder.write(result.chunk, sink.getvalue().to_pybytes())


def read_result(folder: Folder, chunk: str) -> tuple[ChunkResult, Ids] | None:
    """Return the record of a chunk; ``None`` if the chunk must be done, perhaps again.

    A power cut or another version may have left a record that cannot be read.
    """
    content = folder.read(chunk)
    if content is None:
        return None
    try:
        table = pa.ipc.open_file(content).read_all()
        result = ChunkResult.from_json(table.schema.metadata[b"record"])
        columns = [table[name].to_numpy() for name in ("digest", "line", "encoded")]
        names = table["id"].combine_chunks()
    except (pa.ArrowInvalid, KeyError, TypeError, ValueError):
        return None
    return result, Ids(names, *columns)
