"""Which files of a folder are read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISREG

from pathspec import GitIgnoreSpec

from routerretriever.errors import CollectionError
from routerretriever.files.formats import is_readable, suffix_of

IGNORE_FILE = ".routerretrieverignore"
"""File of a folder with patterns of what is not read, written as in ``.gitignore``."""

MOST_BYTES = 200 << 20
"""Size of a file; a larger one is not read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFile:
    """A file to be read.

    Attributes:
        name: its path in the folder, with ``/`` between the parts.
        path: where it is.
        modified: time of its last change, in nanoseconds since 1970.
    """

    name: str
    path: Path
    modified: int


@dataclass(slots=True, kw_only=True)
class Scan:
    """What is in a folder.

    Attributes:
        files: that are read, in the order of their names.
        unread: name → why it is not read.
        other: suffix → files of kinds that nothing here reads.
        unlisted: folders that could not be listed, a part of ``unread``.
    """

    files: list[FoundFile] = field(default_factory=list)
    unread: dict[str, str] = field(default_factory=dict)
    other: dict[str, int] = field(default_factory=dict)
    unlisted: list[str] = field(default_factory=list)


def scan(folder: Path, ignore: Sequence[str] = ()) -> Scan:
    """Look for files in a folder and all folders in it.

    Hidden files and folders are left out. Links are not followed, so that nothing outside of the
    folder is read and no loop is walked.

    Args:
        folder: where to look; or one file.
        ignore: patterns as in ``.gitignore``, beside those in :data:`IGNORE_FILE`.

    Raises:
        CollectionError: the folder cannot be listed, or a pattern cannot be understood.
    """
    found = Scan()
    if folder.is_file():
        _look_at(folder, folder.name, found)
        return found
    check_listable(folder)
    ignored = _patterns(folder, ignore)
    for path in _walk(folder, "", ignored, found):
        name = path.relative_to(folder).as_posix()
        if ignored.match_file(name):
            continue
        _look_at(path, name, found)
    found.files.sort(key=lambda file: file.name)
    return found


def check_listable(folder: Path) -> None:
    """Refuse a folder that is not there or cannot be listed.

    Raises:
        CollectionError: it is not there, is no folder, or must not be read.
    """
    try:
        next(folder.iterdir(), None)
    except OSError as error:
        raise CollectionError(f"{folder} cannot be listed ({error.strerror}).") from error


def _walk(folder: Path, inside: str, ignored: GitIgnoreSpec, found: Scan) -> Iterator[Path]:
    try:
        with os.scandir(folder) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        found.unread[_shown(inside)] = f"it cannot be listed ({error.strerror})."
        found.unlisted.append(_shown(inside))
        return
    for entry in listed:
        name = f"{inside}{entry.name}"
        if entry.name.startswith("."):
            continue
        if entry.is_symlink():
            found.unread[_shown(name)] = "it is a link, which is not followed."
        elif entry.is_dir(follow_symlinks=False):
            if not ignored.match_file(f"{name}/"):
                yield from _walk(Path(entry.path), f"{name}/", ignored, found)
        else:
            yield Path(entry.path)


def _look_at(path: Path, name: str, found: Scan) -> None:
    if not is_readable(name):
        suffix = _shown(suffix_of(name)) or "none"
        found.other[suffix] = found.other.get(suffix, 0) + 1
        return
    try:
        name.encode()
        status = path.lstat()
    except UnicodeEncodeError:
        found.unread[_shown(name)] = "its name is not in UTF-8. Rename it."
        return
    except OSError as error:
        found.unread[_shown(name)] = f"it cannot be opened ({error.strerror})."
        return
    if not S_ISREG(status.st_mode):
        found.unread[name] = "it is no plain file."
    elif status.st_size > MOST_BYTES:
        found.unread[name] = f"it has {status.st_size >> 20} MiB, over the limit of {MOST_BYTES >> 20} MiB."
    else:
        found.files.append(FoundFile(name=name, path=path, modified=status.st_mtime_ns))


def _shown(name: str) -> str:
    return name.encode(errors="backslashreplace").decode()


def _patterns(folder: Path, ignore: Sequence[str]) -> GitIgnoreSpec:
    own: list[str] = []
    file = folder / IGNORE_FILE
    try:
        if file.is_file():
            own = file.read_text(encoding="utf-8").splitlines()
        return GitIgnoreSpec.from_lines([*own, *ignore])
    except (OSError, ValueError) as error:
        raise CollectionError(f"The ignore patterns of {folder} cannot be understood ({error}).") from error
