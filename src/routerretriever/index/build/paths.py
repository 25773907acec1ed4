"""Files of a local disk and of object stores under one interface."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote, urlsplit

from pyarrow import fs

from routerretriever.data.names import data_suffix


def open_path(uri: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of a path or URI, and the path on it.

    Credentials come from the environment.
    """
    if "://" in uri:
        found: tuple[fs.FileSystem, str] = fs.FileSystem.from_uri(uri)
        return found
    return fs.LocalFileSystem(), str(Path(uri).expanduser().absolute())


def suffix_of(uri: str) -> str:
    """Return the kind of file that a path or URI names, such as ``.jsonl`` for ``s3://b/A.JSONL.gz?region=x``."""
    return data_suffix(urlsplit(uri).path if "://" in uri else uri)


def below(folder: str, inside: str) -> str:
    """Return the path or URI of a file.

    Args:
        folder: the path or URI of the folder it is in.
        inside: the file's path in the folder.
    """
    if "://" not in folder:
        return f"{folder.rstrip('/')}/{inside}"
    address, mark, options = folder.partition("?")
    return f"{address.rstrip('/')}/{quote(inside)}{mark}{options}"
