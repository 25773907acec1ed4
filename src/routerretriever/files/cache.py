"""What files gave, kept by their content: a file that did not change is not read again."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from pathlib import Path
from typing import Any

from routerretriever.errors import StorageError
from routerretriever.files.content import READER_VERSION
from routerretriever.storage.cache_directory import cache_directory

_BLOCK = 1 << 20


class ContentCache:
    """A table in the cache folder; several processes may use it.

    Raises:
        StorageError: it cannot be used.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self.path = (directory or cache_directory()) / f"files-{READER_VERSION}.sqlite"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                self.path, timeout=60, isolation_level=None, check_same_thread=False
            )
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("CREATE TABLE IF NOT EXISTS files (key TEXT PRIMARY KEY, outcome TEXT)")
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from error

    def get(self, key: str) -> dict[str, Any] | None:
        """Return what was kept, if anything."""
        try:
            row = self._connection.execute("SELECT outcome FROM files WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as error:
            raise self._unusable(error) from error
        return None if row is None else json.loads(row[0])

    def put(self, key: str, outcome: dict[str, Any]) -> None:
        """Keep what a file gave."""
        try:
            self._connection.execute("INSERT OR REPLACE INTO files VALUES (?, ?)", (key, json.dumps(outcome)))
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def close(self) -> None:
        """Close the table."""
        self._connection.close()

    def _unusable(self, error: Exception) -> StorageError:
        return StorageError(
            f"The cache of files {self.path} cannot be used ({error}). Free some space, delete it, or set "
            "ROUTERRETRIEVER_CACHE to another folder."
        )


def digest_of(path: Path) -> str:
    """Return a hash of a file's content.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
