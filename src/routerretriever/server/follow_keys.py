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
        self._taken: SavedVersion | None = None  # the first look takes: the file may have changed meanwhile
        self._seen = SavedVersion.of_file(path)

    async def keep_following(self, seconds: float) -> None:
        """Look again and again, until cancelled."""
        while True:
            await self.follow()
            await asyncio.sleep(seconds)

    async def follow(self) -> None:
        """Take the keys of the file if it has changed, all or none of them.

        Two looks must see the same file, since one that is still being written may read as fewer keys, or as keys
        without their filters. A file that cannot be used or is gone is logged once, and the keys stay as they were.
        """
        version = SavedVersion.of_file(self._path)
        is_settled, self._seen = version == self._seen, version
        if not is_settled or version == self._taken:
            return
        is_first, self._taken = self._taken is None, version
        if version is None:
            LOG.error("The key file %s is gone; the server keeps the keys that it has", self._path)
            return
        try:
            keys = await asyncio.to_thread(read_key_file, self._path)
            await asyncio.to_thread(self._check, keys)
        except RouterRetrieverError as error:
            LOG.error("The changed key file cannot be used; the server keeps the keys that it has: %s", error)
            return
        except Exception:  # of an index far away, perhaps
            self._taken = None
            LOG.exception("The keys could not be checked; the server will try again")
            return
        self._keyring.take(keys)
        if not is_first:
            LOG.info("the key file has changed: keys in it: %d", len(keys))
