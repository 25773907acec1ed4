"""Replace folders atomically, append whole lines, and write through to the disk."""

from __future__ import annotations

import ctypes
import errno
import glob
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

from routerretriever.errors import LockedError, StorageError
from routerretriever.storage.locks import CAN_LOCK_FOLDERS, locked_folder

_STAGING = ".tmp"
_REPLACED = ".old"
"""Put after the staging folder's name: what stood at the target, between two renames."""


@contextmanager
def replacing(target: Path, *, renewed: Collection[str] = ()) -> Iterator[Path]:
    """Yield a fresh folder that takes the place of ``target`` when the block succeeds.

    Files of ``target`` that the block did not write (a user's notes, ``.git``) are carried over.

    Args:
        target: the folder to replace; it need not exist.
        renewed: names that are not carried over: the block alone decides whether they still exist.

    Raises:
        StorageError: the disk is full or the folder is not writable; ``target`` is unchanged.
    """
    target = target.resolve()
    staging: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(target)
        prefix = f".{target.name}."
        staging = Path(tempfile.mkdtemp(prefix=prefix, suffix=_STAGING, dir=target.parent))
        with locked_folder(staging):
            yield staging
            staging.chmod(0o755)
            _carry_over(target, staging, renewed)
            _sync_tree(staging)
            _swap(staging, target)
    except OSError as error:
        reason = str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason = "the disk is full"
        raise StorageError(
            f"{target} could not be saved: {reason}. What was saved before is unchanged."
        ) from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)


def append_line(path: Path, line: bytes, most: int) -> bool:
    """Append a line to a file that only its owner may read.

    Args:
        path: of the file, which is made if it is missing.
        line: without the line feed.
        most: bytes that the file may have.

    Returns:
        Whether the line was written; ``False`` if it would make the file larger than ``most``.

    Raises:
        StorageError: it could not be written; no half of a line is left there.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "ab", buffering=0) as file:
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


def remove_leftovers(target: Path) -> None:
    """Delete what killed saves of ``target`` left behind, and put back what they had set aside."""
    target = target.resolve()
    restore(target)
    if not CAN_LOCK_FOLDERS:
        return

    for leftover in _beside(target, _STAGING):
        with suppress(OSError, LockedError), locked_folder(leftover):
            shutil.rmtree(leftover, ignore_errors=True)

    # Only after its staging folder is gone is it certain that no save still needs what it set aside.
    for replaced in _beside(target, _STAGING + _REPLACED):
        if target.exists() and not replaced.with_suffix("").exists():
            shutil.rmtree(replaced, ignore_errors=True)


def restore(target: Path) -> None:
    """Put a folder back that a save had set aside when it was killed.

    Where the system cannot exchange two folders, a save renames twice, and a kill between the two
    leaves nothing at ``target``.
    """
    target = target.expanduser().resolve()
    if target.exists():
        return
    for replaced in _beside(target, _STAGING + _REPLACED):
        staging = replaced.with_suffix("")
        held: AbstractContextManager[None] = nullcontext()
        if staging.exists():
            held = locked_folder(staging)
        with suppress(OSError, LockedError), held:  # a save at work holds its staging folder
            replaced.rename(target)
            return


def _beside(target: Path, suffix: str) -> list[Path]:
    return sorted(target.parent.glob(f".{glob.escape(target.name)}.*{suffix}"))


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
    """Put ``staging`` in the place of ``target``, in one step where the system can."""
    if not target.exists():
        staging.rename(target)
        return
    if _exchange(staging, target):
        return  # what was replaced is now the staging folder, which the caller deletes

    replaced = staging.with_name(staging.name + _REPLACED)
    target.rename(replaced)
    try:
        staging.rename(target)
    except OSError:
        replaced.rename(target)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Linux's atomic exchange of two paths; Python has no name for it."""
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None, use_errno=True)
        at_fdcwd, rename_exchange = -100, 2
        result = libc.renameat2(at_fdcwd, os.fsencode(first), at_fdcwd, os.fsencode(second), rename_exchange)
        return bool(result == 0)
    return False
