"""Requests to an OpenAI-compatible endpoint: one at a time, and what a failure means.

A failure decides about the next attempt, and whether the request may be billed.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Self

from routerretriever.errors import MissingExtraError

if TYPE_CHECKING:
    import httpx

KEY_VARIABLE = "OPENAI_API_KEY"
LONGEST_WAIT = 60.0
"""Most seconds between two attempts, unless the server says otherwise."""

LONGEST_ORDER = 600.0
"""Most seconds that a server may ask to be left alone; longer ends the work for now."""

_RETRIED = (408, 409, 425, 429)
_HOPELESS = (401, 402, 404, 405)
_LATE = (504, 524)
"""A gateway gave up waiting; the model behind it may have worked on, and be paid for it."""

Usage = tuple[int | None, int | None]
"""Tokens read and written; ``None`` where the server does not say."""
UNKNOWN: Usage = (None, None)


class FaultError(Exception):
    """A request failed.

    Attributes:
        wait: seconds that the server asked to be left alone for.
        final: whether another try would fail too.
        hopeless: whether every other request would fail too.
        billed: what it may have cost; ``None`` if it cannot have cost anything.
        status: of the response, if one came.
    """

    def __init__(
        self,
        message: str,
        wait: float | None = None,
        *,
        final: bool = False,
        hopeless: bool = False,
        billed: Usage | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.wait = wait
        self.final = final
        self.hopeless = hopeless
        self.billed = billed
        self.status = status

    def pause(self, attempt: int, backoff: float) -> float:
        """Return the seconds to wait before the next attempt: as many as the server asks, or more each time.

        Args:
            attempt: number of attempts before, from 0.
            backoff: most seconds after the first one.
        """
        if self.wait is not None:
            return self.wait
        # Full jitter: attempts of several clients spread over the whole time.
        longest = min(LONGEST_WAIT, backoff * 2**attempt)
        return random.uniform(0, longest)  # noqa: S311 - not for secrets


class JsonEndpoint:
    """An address that takes and gives JSON; its key is read from the environment and kept nowhere else."""

    def __init__(self, url: str, *, timeout: float, largest: int) -> None:
        """Prepare a client.

        Args:
            url: of the resource.
            timeout: seconds for a whole answer.
            largest: most bytes of an answer.

        Raises:
            MissingExtraError: httpx is not installed.
        """
        try:
            import httpx
        except ImportError as error:
            raise MissingExtraError("llm", "httpx") from error
        self._key = os.environ.get(KEY_VARIABLE, "")
        self.url = url
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        # A connection that is never made ends a little before an answer that never comes,
        # because only the latter may be billed.
        waiting = httpx.Timeout(timeout, connect=0.9 * timeout)
        self._client = httpx.AsyncClient(headers=headers, timeout=waiting)
        self._timeout = timeout
        self._largest = largest

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *details: object) -> None:
        await self._client.aclose()

    async def post(self, body: Mapping[str, Any]) -> bytes:
        """Send a request once, and return the content of a good answer.

        Raises:
            FaultError: there was none.
        """
        import httpx

        try:
            # httpx's own time-outs begin again with every byte; a server that sends one byte
            # at a time would be waited for forever.
            async with asyncio.timeout(self._timeout):
                async with self._client.stream("POST", self.url, json=body) as response:
                    content = await self._limited(response)
        except TimeoutError:
            raise FaultError(f"no answer within {self._timeout:g} seconds", billed=UNKNOWN) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            unsent = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)
            billed = None if isinstance(error, (*unsent, httpx.InvalidURL)) else UNKNOWN
            raise FaultError(self._safe(f"{type(error).__name__}: {error}"), billed=billed) from None
        if response.status_code != httpx.codes.OK:
            self._refused(response, content)
        return content

    async def _limited(self, response: httpx.Response) -> bytes:
        content = bytearray()
        async for part in response.aiter_bytes():
            content += part
            if len(content) > self._largest:
                raise FaultError(f"an answer of more than {self._largest} bytes", billed=UNKNOWN)
        return bytes(content)

    def _refused(self, response: httpx.Response, content: bytes) -> None:
        said = self._safe(" ".join(content[:300].decode("utf-8", "replace").split()))
        status = response.status_code
        raise FaultError(
            f"status {status}: {said}",
            _retry_after(response.headers),
            final=status not in _RETRIED and status < 500,
            hopeless=status in _HOPELESS,
            billed=UNKNOWN if status in _LATE else None,
            status=status,
        )

    def _safe(self, text: str) -> str:
        return text.replace(self._key, "…") if self._key else text


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of a Retry-After header, a number or a date (RFC 9110, 10.2.3)."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return None
