"""Document embeddings on disk, shared by training, pilots, evaluation and the index.

One SQLite file per base fingerprint maps a hash of the text to its vector. SQLite's
transactions make every entry whole or absent, also after a kill, and let several
processes share the file.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from routerretriever.errors import StorageError
from routerretriever.kernels.vectors import Vectors
from routerretriever.progress import Progress, Silent
from routerretriever.storage.cache_directory import cache_directory
from routerretriever.storage.retries import retrying

Encode = Callable[[list[str]], Vectors]
"""Texts → float32 vectors (n, d)."""
ReportingEncode = Callable[[list[str], Callable[[int], None]], Vectors]
"""The same, told what to call with the number of texts that are done."""

_WRITE_BLOCK = 512  # texts encoded between two commits: what a kill can cost
_REPLACE = "INSERT OR REPLACE INTO vectors VALUES (?, ?)"
_KEEP = "INSERT OR IGNORE INTO vectors VALUES (?, ?)"
_READ_BLOCK = 500  # below SQLite's oldest limit on the number of parameters


def encoded_blocks(texts: Iterable[str], encode: Encode) -> Iterator[tuple[list[str], Vectors]]:
    """Yield distinct texts and their vectors (n, d), a block at a time.

    The same texts always give the same blocks, and so the same vectors to the last bit,
    cached or not.
    """
    # Long texts first: an encoder that sorts within a block wastes least padding that way.
    ordered = sorted(dict.fromkeys(texts), key=lambda text: -len(text))
    for start in range(0, len(ordered), _WRITE_BLOCK):
        block = ordered[start : start + _WRITE_BLOCK]
        yield block, encode(block).astype(np.float32, copy=False)


class EmbeddingCache:
    """Vectors of texts under one base encoder.

    Args:
        fingerprint: of the base; another base has another file, so vectors never mix.
        dimension: length of the vectors.
        directory: where the files live; default :func:`cache_directory`.

    Raises:
        StorageError: the directory cannot be written or the disk is full.
    """

    def __init__(self, fingerprint: str, dimension: int, directory: Path | None = None) -> None:
        self.path = (directory or cache_directory()) / f"{fingerprint}.sqlite"
        self.dimension = dimension

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self.path, timeout=60)
            try:
                # Of two that make the same file, one is refused at once, whatever the timeout.
                retrying(lambda: connection.execute("PRAGMA journal_mode=WAL"), if_passing=_is_busy)
                connection.execute("CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB)")
                yield connection
            finally:
                connection.close()
        except (sqlite3.Error, OSError) as error:
            raise StorageError(
                f"The embedding cache {self.path} cannot be used ({error}). Free some space, delete the "
                "file if it is damaged, or point ROUTERRETRIEVER_CACHE to another folder."
            ) from error

    def vectors(
        self, texts: Sequence[str], encode: ReportingEncode, *, progress: Progress | None = None
    ) -> Vectors:
        """Return the vectors of ``texts`` (n, d), encoding only those that are not stored yet."""
        keys = [_key(text) for text in texts]
        with self._connection() as connection:
            found = self._read(connection, set(keys))
            missing: dict[str, bytes] = {}
            for key, text in zip(keys, texts, strict=True):
                if key not in found:
                    missing[text] = key

            # Each block is committed, so that a kill costs one block at most.
            with (progress or Silent()).task("embed documents", len(missing)) as task:
                for block, fresh in encoded_blocks(missing, lambda part: encode(part, task.advance)):
                    rows: list[tuple[bytes, bytes]] = []
                    for text, vector in zip(block, fresh, strict=True):
                        rows.append((missing[text], vector.tobytes()))
                    with connection:
                        _write(connection, rows)
                    found.update(rows)
        if not keys:
            return np.empty((0, self.dimension), np.float32)
        joined = bytearray().join(found[key] for key in keys)
        return np.frombuffer(joined, np.float32).reshape(len(keys), -1)

    def put(self, texts: Sequence[str], vectors: Vectors, *, replacing: bool = True) -> None:
        """Store vectors of texts that were encoded elsewhere.

        Args:
            texts: any number of them.
            vectors: their vectors (n, d).
            replacing: take the place of vectors that are there already; else those stay.
        """
        rows: list[tuple[bytes, bytes]] = []
        for text, vector in zip(texts, vectors, strict=True):
            rows.append((_key(text), vector.astype(np.float32, copy=False).tobytes()))
        with self._connection() as connection, connection:
            _write(connection, rows, replacing=replacing)

    def _read(self, connection: sqlite3.Connection, keys: set[bytes]) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        pending = list(keys)
        for start in range(0, len(pending), _READ_BLOCK):
            block = pending[start : start + _READ_BLOCK]
            marks = ",".join("?" * len(block))
            query = f"SELECT key, vector FROM vectors WHERE key IN ({marks})"  # noqa: S608 - only marks
            found.update(connection.execute(query, block))
        return {key: vector for key, vector in found.items() if len(vector) == 4 * self.dimension}


def _write(
    connection: sqlite3.Connection, rows: list[tuple[bytes, bytes]], *, replacing: bool = True
) -> None:
    statement = _REPLACE if replacing else _KEEP
    connection.executemany(statement, rows)


def _is_busy(error: Exception) -> bool:
    return isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode == sqlite3.SQLITE_BUSY


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
