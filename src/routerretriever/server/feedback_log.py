"""The file that clicks and judgements are appended to."""

from __future__ import annotations

import asyncio
from pathlib import Path

from routerretriever.server.problems import ApiError
from routerretriever.storage.atomic import append_line


class FeedbackLog:
    """Appends one line at a time; belongs to the event loop.

    Args:
        path: of the file; without one feedback is refused.
        limit: bytes that the file may grow to.
    """

    def __init__(self, path: Path | None, limit: int) -> None:
        self._path = path
        self._limit = limit
        self._appending = asyncio.Lock()

    async def append(self, line: bytes) -> None:
        """Append a line.

        Raises:
            ApiError: there is no log, or it is full.
            StorageError: the line cannot be written; the file is as before.
        """
        if self._path is None:
            message = "This server keeps no feedback. Start it with --feedback-log FILE."
            raise ApiError(400, message, code="no_feedback_log")
        async with self._appending:
            if not await asyncio.to_thread(append_line, self._path, line, self._limit):
                message = (
                    f"The feedback log has reached its limit of {self._limit} bytes. Move the file away."
                )
                raise ApiError(503, message, code="feedback_full", retry_after=3600)
