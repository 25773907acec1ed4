"""Atomic replacement of folders, appended lines, fsync, and the lock of what is changed."""

from __future__ import annotations

import ctypes
import errno
import glob
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from routerretriever.errors import StorageError

try:
    import fcntl

    HAS_LOCKS = True
except ImportError:  # Windows: leftovers stay
    HAS_LOCKS = False

_STAGING = ".tmp"
LOCK_SECONDS = 30.0
"""How long a change of a model or an index waits for another."""


@contextmanager
def replacing(target: Path, *, renewed: Collection[str] = ()) -> Iterator[Path]:
    """A fresh folder that takes the place of ``target`` when the block ends well.

    Files of ``target`` that the block did not write (a user's notes, ``.git``) are carried over, except those named
    ``renewed``: the block alone decides whether they are still there.

    Raises:
        StorageError: the disk is full or the folder is not writable; ``target`` is as it was.
    """
    target = target.resolve()
    staging: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(target)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=_STAGING, dir=target.parent))
        with _locked(staging):
            yield staging
            staging.chmod(0o755)
            _carry_over(target, staging, renewed)
            _sync_tree(staging)
            _swap(staging, target)
    except OSError as error:
        reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else str(error)
        raise StorageError(f"{target} could not be saved: {reason}. What stood there is unchanged.") from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)


def append_line(path: Path, line: bytes, most: int) -> bool:
    """Append a line to a file that only its owner may read; ``False`` if that would make it larger than ``most``.

    Raises:
        StorageError: it could not be written; no half of a line is left there.
    """
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            if before + len(line) + 1 > most:
                return False
            try:
                if file.write(line + b"\n") <= len(line):
                    raise OSError(errno.ENOSPC, "the disk is full")
            except OSError:
                os.ftruncate(file.fileno(), before)
                raise
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror or error}.") from error
    return True


def lock_file(path: Path) -> Path:
    """Return the file that a process locks while it changes ``path``; it stays when it is unlocked."""
    target = path.expanduser().resolve()
    return target.with_name(f".{target.name}.lock")


@contextmanager
def changing(path: Path) -> Iterator[None]:
    """Hold a saved model or an index, from before it is read until its change is written.

    Raises:
        StorageError: the lock file cannot be written, or another process or thread holds it
            for more than :data:`LOCK_SECONDS`.
    """
    lock = FileLock(lock_file(path), timeout=LOCK_SECONDS)
    try:
        lock.acquire(poll_interval=0.01)
    except Timeout as error:
        raise StorageError(f"Another process is changing {path}. Try again when it has finished.") from error
    except OSError as error:
        raise StorageError(f"{path} cannot be changed: {error}") from error
    try:
        yield
    finally:
        lock.release()


def remove_leftovers(target: Path) -> None:
    """Delete what saves of ``target`` left behind when they were killed; one still at work holds a lock."""
    target = target.resolve()
    if not HAS_LOCKS:
        return
    for leftover in target.parent.glob(f".{glob.escape(target.name)}.*{_STAGING}"):
        with suppress(OSError), _locked(leftover):
            shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the only lock on a folder; it ends with the process, however that ends.

    Raises:
        BlockingIOError: another holds it.
    """
    if not HAS_LOCKS:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _carry_over(target: Path, staging: Path, renewed: Collection[str]) -> None:
    if not target.is_dir():
        return
    for entry in target.iterdir():
        if (staging / entry.name).exists() or entry.name in renewed:
            continue
        if entry.is_dir():
            shutil.copytree(entry, staging / entry.name, symlinks=True, copy_function=link_or_copy)
        else:
            link_or_copy(str(entry), str(staging / entry.name))


def link_or_copy(source: str, destination: str) -> None:
    """Give a file a second name, where the system can; nothing may write to either in place."""
    try:
        os.link(source, destination, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, destination, follow_symlinks=False)


def sync(path: Path) -> None:
    """Write a file, or the names in a folder, through to the disk.

    Raises:
        OSError: the disk reports that it could not write.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_tree(root: Path) -> None:
    for folder, _, files in os.walk(root):
        for name in (*files, "."):
            with suppress(OSError):  # some file systems cannot sync folders
                sync(Path(folder, name))


def _swap(staging: Path, target: Path) -> None:
    """Put ``staging`` in the place of ``target`` in one step where the system can."""
    if not target.exists():
        staging.rename(target)
        return
    if _exchange(staging, target):
        return
    old = staging.with_name(staging.name + ".old")
    target.rename(old)
    staging.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Linux's atomic exchange of two paths; Python has no name for it."""
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None, use_errno=True)
        at_fdcwd, rename_exchange = -100, 2
        result = libc.renameat2(at_fdcwd, os.fsencode(first), at_fdcwd, os.fsencode(second), rename_exchange)
        return bool(result == 0)
    return False
