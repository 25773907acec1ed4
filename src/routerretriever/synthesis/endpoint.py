"""Requests to an OpenAI-compatible endpoint: their pace, and what a failure means.

A failure decides about the next attempt, and whether the request may be billed.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from routerretriever.errors import MissingExtraError, PausedError, SynthesisError

if TYPE_CHECKING:
    import httpx

KEY_VARIABLE = "OPENAI_API_KEY"
LONGEST_WAIT = 60.0
"""Most seconds between two attempts, unless the server says otherwise."""

LONGEST_ORDER = 600.0
"""Most seconds that a server may ask to be left alone; longer ends the run for now."""

LARGEST_BODY = 2**20
_RETRIED = (408, 409, 425, 429)
_HOPELESS = (401, 402, 404, 405)
_LATE = (504, 524)
"""A gateway gave up waiting; the model behind it may have worked on, and be paid for it."""


class Pace:
    """Keeps requests apart: a few a minute, and none while the server asks for a pause."""

    def __init__(self, per_minute: float | None) -> None:
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._next = 0.0

    async def turn(self) -> None:
        """Wait for the next free moment."""
        while (left := self._next - time.monotonic()) > 0:
            await asyncio.sleep(left)
        self._next = time.monotonic() + self._gap

    def hold(self, seconds: float) -> None:
        """Start no request for some seconds."""
        self._next = max(self._next, time.monotonic() + seconds)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer and what it cost.

    Attributes:
        text: of the answer; empty if the model declined.
        tokens_in, tokens_out: as counted by the server; ``None`` if it does not say.
        truncated: whether the model was cut off.
    """

    text: str
    tokens_in: int | None
    tokens_out: int | None
    truncated: bool


Usage = tuple[int | None, int | None]
"""Tokens read and written; ``None`` where the server does not say."""
UNKNOWN: Usage = (None, None)


class FaultError(Exception):
    """A request failed.

    Attributes:
        wait: seconds that the server asked to be left alone for.
        final: whether another try would fail too.
        billed: what it may have cost; ``None`` if it cannot have cost anything.
        status: of the response, if one came.
    """

    def __init__(
        self,
        message: str,
        wait: float | None = None,
        *,
        final: bool = False,
        billed: Usage | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.wait = wait
        self.final = final
        self.billed = billed
        self.status = status


class Endpoint:
    """A chat endpoint; its key is read from the environment and kept nowhere else."""

    def __init__(self, url: str, *, timeout: float, backoff: float, pace: Pace) -> None:
        try:
            import httpx
        except ImportError as error:
            raise MissingExtraError("llm", "httpx") from error
        if not url.startswith(("http://", "https://")):
            raise SynthesisError(
                f"'{url}' is not an endpoint. Give the address that ends in /v1, such as --endpoint http://…/v1"
            )
        self._key = os.environ.get(KEY_VARIABLE, "")
        self.url = url.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        # A connection that is never made ends a little before an answer that never comes,
        # because only the latter may be billed.
        waiting = httpx.Timeout(timeout, connect=0.9 * timeout)
        self._client = httpx.AsyncClient(headers=headers, timeout=waiting)
        self._timeout = timeout
        self._backoff = backoff
        self._pace = pace

    async def __aenter__(self) -> Endpoint:
        return self

    async def __aexit__(self, *details: object) -> None:
        await self._client.aclose()

    async def turn(self) -> None:
        """Wait until a request may be sent."""
        await self._pace.turn()

    async def ask(self, body: Mapping[str, Any]) -> Reply:
        """Send a request once.

        Raises:
            FaultError: it was not answered.
            SynthesisError: the endpoint will answer no request.
        """
        import httpx

        try:
            # httpx's own time-outs begin again with every byte; a server that sends one byte
            # at a time would be waited for forever.
            async with asyncio.timeout(self._timeout):
                async with self._client.stream("POST", self.url, json=body) as response:
                    content = await _limited(response)
        except TimeoutError:
            raise FaultError(f"no answer within {self._timeout:g} seconds", billed=UNKNOWN) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            unsent = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)
            billed = None if isinstance(error, (*unsent, httpx.InvalidURL)) else UNKNOWN
            raise FaultError(self._safe(f"{type(error).__name__}: {error}"), billed=billed) from None
        if response.status_code != httpx.codes.OK:
            self._refused(response, content)
        return _reply(content)

    async def rest(self, fault: FaultError, attempt: int) -> None:
        """Wait after a failed attempt: as long as the server asks, or longer with each attempt.

        Raises:
            PausedError: the server asks for a long pause.
        """
        if fault.wait is None:
            # Full jitter: attempts of several clients spread over the whole time.
            longest = min(LONGEST_WAIT, self._backoff * 2**attempt)
            await asyncio.sleep(random.uniform(0, longest))  # noqa: S311 - not for secrets
            return
        if fault.wait > LONGEST_ORDER:
            raise PausedError(
                f"{self.url} asks for {fault.wait:.0f} seconds without requests. Rerun the same command after that."
            )
        self._pace.hold(fault.wait)

    def hopeless(self, message: str) -> SynthesisError:
        """Return the error for an endpoint that answers no request."""
        return SynthesisError(
            f"{self.url} refuses every request ({message}). Check --endpoint, --model, and the key in {KEY_VARIABLE}."
        )

    def _refused(self, response: httpx.Response, content: bytes) -> None:
        said = self._safe(" ".join(content[:300].decode("utf-8", "replace").split()))
        status = response.status_code
        message = f"status {status}: {said}"
        if status in _HOPELESS:
            raise self.hopeless(message)
        raise FaultError(
            message,
            _retry_after(response.headers),
            final=status not in _RETRIED and status < 500,
            billed=UNKNOWN if status in _LATE else None,
            status=status,
        )

    def _safe(self, text: str) -> str:
        return text.replace(self._key, "…") if self._key else text


async def _limited(response: httpx.Response) -> bytes:
    content = bytearray()
    async for part in response.aiter_bytes():
        content += part
        if len(content) > LARGEST_BODY:
            raise FaultError(f"an answer of more than {LARGEST_BODY} bytes", billed=UNKNOWN)
    return bytes(content)


def _reply(content: bytes) -> Reply:
    usage = UNKNOWN
    try:
        record = json.loads(content)
        usage = _usage(record)
        choice = record["choices"][0]
        text = choice["message"].get("content") or ""
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        message = f"an answer that is not a chat completion ({type(error).__name__}: {error})"
        raise FaultError(message, billed=usage) from None
    return Reply(str(text), *usage, choice.get("finish_reason") == "length")


def _usage(record: Any) -> Usage:
    usage = record.get("usage")
    if not isinstance(usage, dict):
        return UNKNOWN
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    read, written = (count if isinstance(count, int) else None for count in counts)
    return read, written


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
