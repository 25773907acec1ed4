"""Several servers on one model: each sees what the others save, and changes of the experts wait for each other.

A save replaces the model's folder as a whole, and with it the file that describes the model. A server looks at that
file once a second. Where it is another, the experts and pilots are read again and taken between two batches, those that
are unchanged as they are. A change holds a lock file beside the folder from before it looks until it has saved, so that
it builds on what was saved last.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from routerretriever.encoder.served_model import ServedModel
from routerretriever.errors import RouterRetrieverError
from routerretriever.server.batching import Closed
from routerretriever.server.read_saved import Saved, read_saved
from routerretriever.storage.locks import changing_async
from routerretriever.storage.saved_version import SavedVersion

LOG = logging.getLogger("routerretriever.server")


class SharedModel:
    """The experts of a model whose folder other processes change too; belongs to the event loop.

    Args:
        model: as it was loaded.
        folder: where it is saved.
        version: that it was loaded from.
        barrier: runs something between two batches.
        forget: is told of every expert that is removed.
    """

    def __init__(
        self,
        model: ServedModel,
        folder: Path,
        *,
        version: SavedVersion | None,
        barrier: Callable[[Callable[[], Any]], Future[Any]],
        forget: Callable[[str], None],
    ) -> None:
        self._model = model
        self._folder = folder
        self._version = version
        self._barrier = barrier
        self._forget = forget
        self._refused: SavedVersion | None = None
        self._changing = asyncio.Lock()

    # -- what others saved -------------------------------------------------------------------------

    async def keep_following(self, seconds: float) -> None:
        """Look again and again, until cancelled; what cannot be used is logged once and ignored."""
        while True:
            await asyncio.sleep(seconds)
            await self.follow()

    async def follow(self) -> None:
        """Take what others have saved, if it can be used."""
        if SavedVersion.of(self._folder) in (None, self._version, self._refused):
            return
        async with self._changing:
            version = SavedVersion.of(self._folder)
            try:
                await self._catch_up()
            except Closed:
                return
            except RouterRetrieverError as error:
                self._refused = version
                LOG.error(
                    "The saved model cannot be used; this server keeps the experts that it has: %s", error
                )
            except Exception:  # of a file system far away, perhaps
                LOG.exception("The saved model could not be read; this server will try again")

    async def _catch_up(self) -> None:
        if SavedVersion.of(self._folder) in (None, self._version):
            return
        saved = await asyncio.to_thread(read_saved, self._folder, self._model)
        gone = self._model.state.experts.keys() - saved.state.experts.keys()
        await self._run(lambda: self._take(saved))
        self._version = saved.version
        for name in gone:
            self._forget(name)
        LOG.info("the saved model has changed: %s", ", ".join(self._model.state.candidates))

    def _take(self, saved: Saved) -> None:
        fresh = {name: saved.state.experts[name] for name in saved.fresh}
        self._model.check_not_silent(fresh, f" in {self._folder}")
        self._model.state = saved.state

    # -- own changes -------------------------------------------------------------------------------

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[Callable[[Callable[[], None]], Awaitable[None]]]:
        """Lock the model against all other processes, as it was saved last; yield what changes and saves it.

        Raises:
            LockedError: another process holds it for too long.
            StorageError: the lock file cannot be written.
        """
        async with self._changing, changing_async(self._folder):
            await self._catch_up()
            yield self._apply

    async def _apply(self, change: Callable[[], None]) -> None:
        """Make a change and save it; if it fails or cannot be saved, the experts are as before."""
        take_back = await self._run(change)
        try:
            await asyncio.to_thread(self._model.save_experts, self._folder)
        except Exception:
            await asyncio.wrap_future(self._barrier(take_back))
            raise
        self._version = SavedVersion.of(self._folder)

    async def _run(self, change: Callable[[], None]) -> Callable[[], None]:
        """Run a change between two batches, and return what takes it back; if it fails, that is done."""
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
