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

_CLAIM = "routerretriever.build"


@dataclass(frozen=True, slots=True)
class Claim:
    """Who builds an index: ``build`` names the commit, ``version`` is the one before it."""

    build: str
    version: int
    collection: str
    host: str
    process: int
    started: str

    def is_alive(self) -> bool:
        """Whether it is certainly still at work; of another host nobody can know."""
        if self.host != socket.gethostname():
            return False
        if self.process == os.getpid():
            return self.build in _AT_WORK
        try:
            process = psutil.Process(self.process)
            begun = process.create_time()  # a process that began after the claim only got the same number
            dead = process.status() == psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False
        return not dead and begun < datetime.fromisoformat(self.started).timestamp() + 1

    def __str__(self) -> str:
        return f"a build of '{self.collection}' begun {self.started} by process {self.process} on {self.host}"


_AT_WORK: set[str] = set()  # builds of this very process


@contextmanager
def claimed(dataset: str, collection: str, *, resume: bool) -> Iterator[Claim]:
    """Hold an index for one build; the claim is part of the index, so that it holds on every machine.

    It outlives a kill, and an error does not.

    Raises:
        BuildError: another build holds it, or what ``resume`` takes over is of another collection or still at work.
        StorageError: the index cannot be read or written.
    """
    try:
        opened = lance.dataset(dataset)
    except (OSError, RuntimeError, ValueError) as error:
        raise StorageError(f"The index {dataset} cannot be opened: {error}") from error
    standing = _standing(opened)
    if standing is not None and not resume:
        raise BuildError(
            f"The index is held by {standing}. Wait until it is done; if it was killed, add --resume to take it over."
        )
    if standing is not None and standing.is_alive():
        raise BuildError(f"The index is held by {standing}, which is still at work. Wait until it is done, or end it.")
    if standing is not None and standing.collection != collection:
        raise BuildError(f"The index is held by {standing}. Resume that collection first.")
    now = datetime.now(UTC).isoformat(timespec="seconds")
    mine = Claim(str(uuid.uuid4()), opened.version, collection, socket.gethostname(), os.getpid(), now)
    if standing is not None:
        mine = replace(mine, build=standing.build, version=standing.version)
    try:
        opened.update_config({_CLAIM: json.dumps(asdict(mine))})
    except (OSError, RuntimeError) as error:
        if not is_conflict(error):
            raise StorageError(f"The index {dataset} could not be written: {error}") from error
        raise BuildError(f"Another build claimed the index at the same moment ({error}). Wait for it.") from error
    _AT_WORK.add(mine.build)
    try:
        yield mine
    finally:
        _AT_WORK.discard(mine.build)
        _release(dataset, mine)


def _release(dataset: str, mine: Claim) -> None:
    with suppress(OSError, RuntimeError):  # a full disk takes no release either; then --resume is needed
        newest = lance.dataset(dataset)
        if _standing(newest) == mine:
            newest.delete_config_keys([_CLAIM])


def _standing(dataset: Any) -> Claim | None:
    value = dataset.config().get(_CLAIM)
    return None if value is None else Claim(**json.loads(value))
