"""Writing an index through to a local disk."""

from __future__ import annotations

import os
from pathlib import Path

from routerretriever.errors import StorageError
from routerretriever.index.connection import TABLE, files, local_folder
from routerretriever.index.reports import Flushed
from routerretriever.storage.atomic import sync

FileState = tuple[int, int, int]
"""Inode, time of the last change in nanoseconds, and size in bytes of a file."""


class Flusher:
    """Writes what is new in an index through to the disk, and remembers what was."""

    def __init__(self, uri: str) -> None:
        self._folder = local_folder(uri)
        self._flushed: dict[Path, FileState] = {}

    def flush(self) -> Flushed:
        """Write files and folders through that are new since the last flush.

        Lance never calls fsync, so that a power cut can lose a write until the operating
        system has written it out. A power cut *while* a write runs can leave its new version on
        the disk without all of its files, since Lance orders nothing; the version before it
        is whole. An object store acknowledges only what is safe, so there is nothing to do.

        Raises:
            StorageError: the disk reports that it could not write.
        """
        if self._folder is None:
            return Flushed(0, 0)
        folder = self._folder.absolute()
        table = folder / f"{TABLE}.lance"

        # Files come first, so that no folder names one that is not on the disk. The index's
        # own folder and its parent hold the entries of folders that may be new as well.
        new_files = self._sync_new(list(files(table)))
        below = [Path(parent) for parent, _, _ in os.walk(table, topdown=False)]
        new_folders = self._sync_new([*below, folder, folder.parent])

        for gone in [path for path in self._flushed if not path.exists()]:
            del self._flushed[gone]
        return Flushed(new_files, new_folders)

    def _sync_new(self, paths: list[Path]) -> int:
        count = 0
        for path in paths:
            try:
                state = _state(path)
                if self._flushed.get(path) != state:
                    sync(path)
                    self._flushed[path] = state
                    count += 1
            except FileNotFoundError:  # a file that was cleaned away meanwhile
                continue
            except OSError as error:
                raise StorageError(f"{path} could not be written through to the disk: {error}") from error
        return count


def _state(path: Path) -> FileState:
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size
