"""The lock of a saved model, an index or a journal, held by one process or thread at a time."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO

from filelock import AsyncFileLock, FileLock, Timeout

from routerretriever.errors import LockedError, StorageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

CAN_LOCK_FOLDERS = fcntl is not None
"""Whether the system can lock a folder; without that, leftovers of killed saves stay."""
LOCK_SECONDS = 30.0
"""How long a change of a model or an index waits for another."""


def lock_file(path: Path) -> Path:
    """Return the file that a process locks while it changes ``path``; it stays when it is unlocked."""
    target = path.expanduser().resolve()
    return target.with_name(f".{target.name}.lock")


@contextmanager
def changing(path: Path, *, seconds: float | None = None) -> Iterator[None]:
    """Hold a saved model or an index, from before it is read until its change is written.

    Args:
        path: of the model or index.
        seconds: to wait for another holder; default :data:`LOCK_SECONDS`.

    Raises:
        LockedError: another process or thread holds it all that time.
        StorageError: the lock file cannot be written.
    """
    lock = FileLock(lock_file(path), timeout=LOCK_SECONDS if seconds is None else seconds)
    with _explained(path):
        lock.acquire(poll_interval=0.01)
    try:
        yield
    finally:
        lock.release()


@asynccontextmanager
async def changing_async(path: Path) -> AsyncIterator[None]:
    """Hold the same lock as :func:`changing` without blocking the event loop."""
    lock = AsyncFileLock(lock_file(path), timeout=LOCK_SECONDS)
    with _explained(path):
        await lock.acquire()
    try:
        yield
    finally:
        await lock.release()


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Hold a staging folder; the lock ends with the process, however that ends.

    Raises:
        LockedError: another process or thread holds it.
    """
    if not CAN_LOCK_FOLDERS:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _lock_now(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def lock_open_file(file: IO[bytes], path: Path) -> None:
    """Hold an open file until it is closed.

    Raises:
        LockedError: another process or thread holds it.
    """
    if CAN_LOCK_FOLDERS:
        _lock_now(file.fileno(), path)


def _lock_now(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise LockedError(f"Another process is writing {path}. Try again when it has finished.") from error


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except Timeout as error:
        message = f"Another process is changing {path}. Try again when it has finished."
        raise LockedError(message) from error
    except OSError as error:
        raise StorageError(f"{path} cannot be changed: {error}.") from error
