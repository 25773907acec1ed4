"""Several servers on one model: each sees what the others save, and changes of the experts wait for each other.

A save replaces the model's folder as a whole, and with it the file that describes the model. A server looks at that
file once a second. Where it is another, the experts and pilots are read again and taken between two batches, those that
are unchanged as they are. A change holds a lock file beside the folder from before it looks until it has saved, so that
it builds on what was saved last.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from filelock import AsyncFileLock, FileLock, Timeout

from routerretriever.encoder.routed_encoder import RoutedEncoder
from routerretriever.errors import ModelError, RouterRetrieverError, StorageError
from routerretriever.expert_state import ExpertState
from routerretriever.lora.adapter import Adapter
from routerretriever.model import RouterRetriever
from routerretriever.server.batching import Closed
from routerretriever.server.problems import ApiError
from routerretriever.storage.atomic import LOCK_SECONDS, lock_file, remove_leftovers
from routerretriever.storage.hub_download import is_download
from routerretriever.storage.model_folder import (
    MODEL_INFO,
    check_fingerprint,
    read_model_info,
    read_state,
)

LOG = logging.getLogger("routerretriever.server")
T = TypeVar("T")
_ATTEMPTS = 10  # at reading a folder that is replaced meanwhile


@dataclass(frozen=True, slots=True)
class Version:
    """Which save of a model this is, by the file that describes it."""

    file: int
    modified: int
    size: int

    @classmethod
    def of(cls, folder: Path) -> Version | None:
        """The version on disk; ``None`` where there is no model, if only for a moment."""
        try:
            status = (folder / MODEL_INFO).stat()
        except OSError:
            return None
        return cls(status.st_ino, status.st_mtime_ns, status.st_size)


@dataclass(frozen=True, slots=True, eq=False)
class Saved:
    """Experts and pilots as they are on disk.

    Attributes:
        version: that was read.
        state: experts, infos and policy; the adapters at hand where they are unchanged.
        fresh: names of the experts that are new or changed.
    """

    version: Version
    state: ExpertState
    fresh: tuple[str, ...]


def load_model(folder: Path, device: str | None) -> tuple[RouterRetriever, Version | None]:
    """A model, and a version that is not newer than what was read.

    Raises:
        ModelError, ExpertError: it cannot be used.
    """
    if not is_download(folder):  # the hub's client wants no file of ours in its cache, and nobody saves there
        with suppress(OSError), FileLock(lock_file(folder), timeout=0):  # whoever holds it is saving
            remove_leftovers(folder)
    for _ in range(_ATTEMPTS):
        version = Version.of(folder)
        try:
            return RouterRetriever.from_pretrained(folder, device=device), version
        except (RouterRetrieverError, OSError):
            if Version.of(folder) == version:
                raise
    raise StorageError(f"The model in {folder} is replaced again and again while it is read. Try again later.")


def read_saved(folder: Path, encoder: RoutedEncoder) -> Saved:
    """Experts and pilots of one version of a saved model.

    Raises:
        ModelError, ExpertError: they cannot be used with the base at hand.
        StorageError: it changes faster than it can be read.
    """
    for _ in range(_ATTEMPTS):
        version = Version.of(folder)
        try:
            saved = _read(folder, encoder, version) if version is not None else None
        except (RouterRetrieverError, OSError):
            if Version.of(folder) == version:
                raise
            continue
        if saved is not None and Version.of(folder) == version:  # else it is of two versions
            return saved
    raise StorageError(f"The model in {folder} is gone, or replaced again and again while it is read.")


def _read(folder: Path, encoder: RoutedEncoder, version: Version) -> Saved:
    info = read_model_info(folder)
    check_fingerprint(encoder.fingerprint, info["base"]["fingerprint"], f"The files in {folder}")
    layers = encoder.get_config_dict()
    if {key: info[key] for key in layers} != layers:
        raise ModelError(f"The model in {folder} has other layers for its experts now. Restart the server.")
    state = read_state(folder, info, encoder.lora_layers, encoder.fingerprint)
    at_hand = encoder.state.experts
    experts, fresh = {}, []
    for name, adapter in state.experts.items():
        unchanged = name in at_hand and _same(adapter, at_hand[name])
        experts[name] = at_hand[name] if unchanged else adapter
        if not unchanged:
            fresh.append(name)
    return Saved(version, replace(state, experts=experts), tuple(fresh))


def _same(read: Adapter, present: Adapter) -> bool:
    """Whether two adapters do the same; reading folds an adapter's scaling into its B."""
    if read.factors.keys() != present.factors.keys():
        return False
    for name, (a, b) in read.factors.items():
        other_a, other_b = (factor.float().cpu() for factor in present.factors[name])
        if a.shape != other_a.shape or not torch.equal(a, other_a):
            return False
        if not torch.allclose(b * read.scaling, other_b * present.scaling, rtol=1e-6, atol=0.0):
            return False
    return True


class SharedModel:
    """The experts of a model whose folder other processes change as well; belongs to the event loop.

    Args:
        model: as it was loaded.
        folder: where it is saved.
        version: that it was loaded from.
        barrier: runs something between two batches.
        forget: is told of every expert that is gone.
    """

    def __init__(
        self,
        model: RouterRetriever,
        folder: Path,
        version: Version | None,
        barrier: Callable[[Callable[[], Any]], Future[Any]],
        forget: Callable[[str], None],
    ) -> None:
        self._model, self._folder, self._version = model, folder, version
        self._barrier, self._forget = barrier, forget
        self._refused: Version | None = None
        self._changing = asyncio.Lock()

    # -- what others saved -------------------------------------------------------------------------

    async def keep_following(self, seconds: float) -> None:
        """Look again and again, until cancelled; what cannot be used is said once and left alone."""
        while True:
            await asyncio.sleep(seconds)
            await self.follow()

    async def follow(self) -> None:
        """Take what others have saved, if it can be used."""
        if Version.of(self._folder) in (None, self._version, self._refused):
            return
        async with self._changing:
            version = Version.of(self._folder)
            try:
                await self._catch_up()
            except Closed:
                return
            except RouterRetrieverError as error:
                self._refused = version
                LOG.error("The saved model cannot be used; this server keeps the experts that it has: %s", error)
            except Exception:  # of a file system far away, perhaps
                LOG.exception("The saved model could not be read; this server will try again")

    async def _catch_up(self) -> None:
        if Version.of(self._folder) in (None, self._version):
            return
        saved = await asyncio.to_thread(read_saved, self._folder, self._model.encoder)
        gone = self._model.experts.keys() - saved.state.experts.keys()
        await self._run(lambda: self._take(saved))
        self._version = saved.version
        for name in gone:
            self._forget(name)
        LOG.info("the saved model has changed: %s", ", ".join(self._model.state.candidates))

    def _take(self, saved: Saved) -> None:
        fresh = {name: saved.state.experts[name] for name in saved.fresh}
        self._model.encoder.check_not_silent(fresh, f" in {self._folder}")
        self._model.state = saved.state

    # -- own changes -------------------------------------------------------------------------------

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[Callable[[Callable[[], None]], Awaitable[None]]]:
        """Hold the model against all other processes, as it was saved last; yields what changes and saves it.

        Raises:
            ApiError: another process holds it for too long.
            StorageError: the lock file cannot be written.
        """
        async with self._changing:
            lock = AsyncFileLock(lock_file(self._folder), timeout=LOCK_SECONDS)
            try:
                await lock.acquire()
            except Timeout as error:
                message = "Another process is changing the experts. Try again in a moment."
                raise ApiError(503, message, code="busy", retry_after=5) from error
            except OSError as error:
                raise StorageError(f"{self._folder} cannot be changed: {error}") from error
            try:
                await self._catch_up()
                yield self._apply
            finally:
                await lock.release()

    async def _apply(self, change: Callable[[], None]) -> None:
        """Make a change and save it; one that fails or cannot be saved is taken back as a whole."""
        take_back = await self._run(change)
        try:
            await asyncio.to_thread(self._model.save_experts, self._folder)
        except Exception:
            await asyncio.wrap_future(self._barrier(take_back))
            raise
        self._version = Version.of(self._folder)

    async def _run(self, change: Callable[[], None]) -> Callable[[], None]:
        """Run a change between two batches; answers what takes it back, which has been done if it fails."""
        model = self._model

        def run() -> Callable[[], None]:
            before = model.state

            def take_back() -> None:
                model.state = before

            try:
                change()
            except Exception:
                take_back()
                raise
            return take_back

        take_back: Callable[[], None] = await asyncio.wrap_future(self._barrier(run))
        return take_back


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Await what must not stop halfway, even when whoever asked for it has gone away."""
    return await asyncio.shield(asyncio.ensure_future(work))
