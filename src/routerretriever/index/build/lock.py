"""Who may build an index: a lock that is part of the index itself."""

from __future__ import annotations

import json
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import lance
import psutil

from routerretriever.errors import BuildError, StorageError
from routerretriever.index.conflicts import is_conflict

_CONFIG_KEY = "routerretriever.build"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildLock:
    """Who builds an index; kept in the configuration of the index as JSON.

    Attributes:
        build: name of the build, and of its commit.
        version: of the index, before the build.
        collection: that is built.
        host: that builds.
        process: that builds.
        started: time at which the lock was taken.
    """

    build: str
    version: int
    collection: str
    host: str
    process: int
    started: str

    def is_alive(self) -> bool:
        """Return whether the build is certainly still running; of another host nobody can know."""
        if self.host != socket.gethostname():
            return False
        if self.process == os.getpid():
            return self.build in _RUNNING_HERE
        try:
            process = psutil.Process(self.process)
            begun = process.create_time()
            dead = process.status() == psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False
        # A process that began after the lock was taken only got the same number.
        return not dead and begun < datetime.fromisoformat(self.started).timestamp() + 1

    def __str__(self) -> str:
        return f"a build of '{self.collection}' begun {self.started} by process {self.process} on {self.host}"


_RUNNING_HERE: set[str] = set()  # builds of this very process


@contextmanager
def build_lock(dataset: str, collection: str, *, resume: bool) -> Iterator[BuildLock]:
    """Hold an index for one build.

    The lock is part of the index, so that it holds on every machine. It outlives a kill, and an
    error releases it.

    Args:
        dataset: URI of the Lance data set.
        collection: that is built.
        resume: take over the lock of a build that was killed.

    Raises:
        BuildError: another build holds it, or what ``resume`` takes over is of another
            collection or still running.
        StorageError: the index cannot be read or written.
    """
    try:
        opened = lance.dataset(dataset)
    except (OSError, RuntimeError, ValueError) as error:
        raise StorageError(f"The index {dataset} cannot be opened: {error}") from error
    held = held_lock(opened)
    if held is not None:
        _check_takeover(held, collection, resume=resume)

    mine = BuildLock(
        build=str(uuid.uuid4()),
        version=opened.version,
        collection=collection,
        host=socket.gethostname(),
        process=os.getpid(),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    if held is not None:
        mine = replace(mine, build=held.build, version=held.version)
    try:
        opened.update_config({_CONFIG_KEY: json.dumps(asdict(mine))})
    except (OSError, RuntimeError) as error:
        if not is_conflict(error):
            raise StorageError(f"The index {dataset} could not be written: {error}") from error
        raise BuildError(
            f"Another build locked the index at the same moment ({error}). Wait for it."
        ) from error

    _RUNNING_HERE.add(mine.build)
    try:
        yield mine
    finally:
        _RUNNING_HERE.discard(mine.build)
        _release(dataset, mine)


def held_lock(dataset: Any) -> BuildLock | None:
    """Return the lock of an unfinished build, if there is one."""
    value = dataset.config().get(_CONFIG_KEY)
    return None if value is None else BuildLock(**json.loads(value))


def _check_takeover(held: BuildLock, collection: str, *, resume: bool) -> None:
    if not resume:
        raise BuildError(
            f"The index is held by {held}. Wait until it is done; if it was killed, add --resume to take it over."
        )
    if held.is_alive():
        raise BuildError(
            f"The index is held by {held}, which is still running. Wait until it is done, or end it."
        )
    if held.collection != collection:
        raise BuildError(f"The index is held by {held}. Resume that collection first.")


def _release(dataset: str, mine: BuildLock) -> None:
    # A full disk does not take the release either; then --resume is needed.
    with suppress(OSError, RuntimeError):
        newest = lance.dataset(dataset)
        if held_lock(newest) == mine:
            newest.delete_config_keys([_CONFIG_KEY])
