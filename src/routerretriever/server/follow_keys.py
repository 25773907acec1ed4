"""A key file that changes while the server runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from routerretriever.errors import RouterRetrieverError
from routerretriever.server.key_file import Key, read_key_file
from routerretriever.server.keyring import Keyring
from routerretriever.storage.saved_version import SavedVersion

LOG = logging.getLogger("routerretriever.server")


class FollowedKeys:
    """The keys of a file, which are read again when it changes; belongs to the event loop.

    Args:
        path: of the file.
        keyring: that they are hung on.
        check: refuses keys that do not fit the model and the index; blocks.
    """

    def __init__(self, path: Path, keyring: Keyring, check: Callable[[Sequence[Key]], None]) -> None:
        self._path = path
        self._keyring = keyring
        self._check = check
        self._seen: SavedVersion | None = None  # the first look reads: it may have changed meanwhile

    async def keep_following(self, seconds: float) -> None:
        """Look again and again, until cancelled."""
        while True:
            await self.follow()
            await asyncio.sleep(seconds)

    async def follow(self) -> None:
        """Take the keys of the file if it has changed, all or none of them.

        A file that cannot be used is logged once, and the keys stay as they were; so do those of a file that is gone.
        """
        version = SavedVersion.of_file(self._path)
        if version in (None, self._seen):
            return
        is_first, self._seen = self._seen is None, version
        try:
            keys = await asyncio.to_thread(read_key_file, self._path)
            await asyncio.to_thread(self._check, keys)
        except RouterRetrieverError as error:
            LOG.error("The changed key file cannot be used; the server keeps the keys that it has: %s", error)
            return
        except Exception:  # of an index far away, perhaps
            self._seen = None
            LOG.exception("The keys could not be checked; the server will try again")
            return
        self._keyring.take(keys)
        if not is_first:
            LOG.info("the key file has changed: it has %d keys now", len(keys))
