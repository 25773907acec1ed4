"""Files of a local disk and of object stores under one interface."""

from __future__ import annotations

from pathlib import Path

from pyarrow import fs


def open_path(uri: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of a path or URI, and the path on it.

    Credentials come from the environment.
    """
    if "://" in uri:
        found: tuple[fs.FileSystem, str] = fs.FileSystem.from_uri(uri)
        return found
    return fs.LocalFileSystem(), str(Path(uri).expanduser().absolute())
